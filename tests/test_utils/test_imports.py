"""Functions of the user's own code, by the name of a module or the path of a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tame.utils.checks import InputError
from tame.utils.imports import import_function


@pytest.mark.parametrize("name", ["./mine.py:build", "mine.py:build", "sub/../mine.py:build", "mine:build"])
def test_a_function_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.py").write_text("from helper_beside import VALUE\ndef build():\n    return VALUE\n")
    (tmp_path / "helper_beside.py").write_text("VALUE = 7\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    try:
        assert import_function(name, "backbone")() == 7
    finally:
        sys.modules.pop("mine", None)
        sys.modules.pop("helper_beside", None)
    assert sys.path == before


def test_a_file_is_executed_once_and_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text("values = []\ndef get():\n    return values\n")
    first = import_function(f"{file}:get", "method")
    assert import_function(f"{file}:get", "method") is first
    file.write_text("def get():\n    return 'changed'\n")
    assert import_function(f"{file}:get", "method")() == "changed"


def test_a_file_does_not_hide_a_module_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def build():\n    return 'mine'\n")
    assert import_function(f"{tmp_path}/json.py:build", "backbone")() == "mine"
    assert import_function("json:loads", "backbone")("1") == 1


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (None, "nowhere.py:build", "No such file"),
        ("x = 1", "mine.py:build", "has no attribute 'build'"),
        ("def build(:", "mine.py:build", "invalid syntax"),
        ("import nowhere_at_all", "mine.py:build", "No module named 'nowhere_at_all'"),
        ("x = 1", "mine.py:", "has no attribute ''"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, content: str | None, name: str, reason: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(InputError, match=f"expected file.py:function as the backbone, cannot import .*: .*{reason}"):
        import_function(f"{tmp_path}/{name}", "backbone")
