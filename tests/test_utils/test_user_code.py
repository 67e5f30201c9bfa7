"""The user's own code by name: what cannot be imported, or fails, is said in one line."""

import re

import pytest

from tame.utils.checks import InputError
from tame.utils.imports import import_function, running


@pytest.fixture(autouse=True)
def _working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:sep", "got 'os:sep', a str"),
        ("sys:modules", "got 'sys:modules', a dict"),
        ("os:path", "got 'os:path', a module"),
        ("os:", "cannot import 'os:': module 'os' has no attribute ''"),
        (":", "cannot import ':': Empty module name"),
        ("..:x", "cannot import '..:x': TypeError: the 'package' argument is required"),
        ("nowhere_at_all:f", "cannot import 'nowhere_at_all:f': No module named 'nowhere_at_all'"),
    ],
)
def test_what_is_no_function(name, message):
    with pytest.raises(InputError, match=re.escape(f"expected package.module:function as the method, {message}")):
        import_function(name, "method")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("fails_at_import", "1 / 0", "ZeroDivisionError: division by zero"),
        ("exits_at_import", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("wrong_syntax", "def (", "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_that_fails(tmp_path, name, code, message):
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(InputError, match=re.escape(f"cannot import '{name}:f': {message}")):
        import_function(f"{name}:f", "method")


def test_a_function_that_fails_is_named_and_its_error_is_kept():
    with pytest.raises(InputError, match=r"^mine:f failed: KeyError: 'x'$") as error, running("mine:f"):
        raise KeyError("x")
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(InputError, match="as it was"), running("mine:f"):
        raise InputError("as it was")
