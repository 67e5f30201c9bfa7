"""Completion of commands and options by the shell."""

import re
import shutil
import subprocess
import sys

import pytest

from tame.cli.completion import completion_script
from tame.utils.checks import InputError

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "tame.bash"
    path.write_text(completion_script("bash"))
    return path


def complete(script, *words):
    """Return what bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = [
        f"source {script}",
        f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}",
        "_shtab_tame",
        "printf '%s\\n' \"${COMPREPLY[@]}\"",
    ]
    done = subprocess.run(["bash", "-c", "; ".join(code)], capture_output=True, text=True, check=False, timeout=60)
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tame", "ev"], ["evaluate"]),
        (["tame", "li"], ["list"]),
        (["tame", "im"], ["import"]),
        (["tame", "train", "--batch"], ["--batch-size"]),
        (["tame", "evaluate", "--rise.ma"], ["--rise.masks"]),
        (["tame", "evaluate", "--device", "c"], ["cpu", "cuda"]),
        (["tame", "table", "--format", "la"], ["latex"]),
        (["tame", "train", "--resume", "f"], ["false"]),
    ],
)
def test_bash_completes(script, words, expected):
    assert complete(script, *words) == expected


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "--batch-size"), ("zsh", "--batch-size"), ("tcsh", "complete tame")]
)
def test_the_command_line_prints_a_script(tame, shell, words):
    status, output, _ = tame("--print_shtab", shell)
    assert status == 0 and words in output and "lr-find" in output


def test_another_shell(tame):
    for shells, got in ([], "none"), (["cmd"], "cmd"):
        status, output, errors = tame("--print_shtab", *shells)
        assert (status, output) == (2, "")
        assert re.fullmatch(f"tame --print_shtab: expected one of bash, zsh, .*, got {got}\n", errors)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(InputError, match="shell completion needs the package shtab: pip install shtab"):
        completion_script("bash")
