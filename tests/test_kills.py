"""Some of the kills, full disks and simultaneous starts of `kills.py`, which does any number of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tame
from kills import COMMANDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
    pytest.mark.skipif("TAME_KILLS" not in os.environ, reason="takes minutes: runs where TAME_KILLS is set"),
]
HERE = Path(__file__).parent


def kills(folder: Path, *options: str) -> str:
    """Run the script, which fails if anything is wrong, in a process that has computed nothing yet."""
    environment = os.environ | {"PYTHONPATH": f"{Path(tame.__file__).parents[1]}{os.pathsep}{HERE}"}
    command = [sys.executable, str(HERE / "kills.py"), *options, "--out", str(folder / "kills")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_is_started_again(tmp_path: Path, name: str) -> None:
    assert "  6 tries: 0 wrong" in kills(tmp_path, "--commands", name, "--moments", "2")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_started_twice(tmp_path: Path, name: str) -> None:
    assert "  2 tries: 0 wrong" in kills(tmp_path, "--commands", name, "--together", "1")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_disk_is_full(tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "disk"], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    subprocess.run(["umount", tmp_path / "disk"], check=True)
    assert "  4 tries: 0 wrong" in kills(tmp_path, "--commands", name, "--disks", "4")
