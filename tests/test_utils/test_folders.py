"""One run at a time in a folder, and only files of ours are replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tame
from tame.utils import folders
from tame.utils.checks import InputError
from tame.utils.folders import LOCK, claim, claimed, locked
from tame.utils.io import replacing
from tame.utils.owner import Owner

HOLD = """
import sys, time
from pathlib import Path
from tame.utils.folders import locked
from tame.utils.io import replacing
with locked(Path(sys.argv[1])), replacing(Path(sys.argv[1]) / "note.txt") as temporary:
    temporary.write_text("half")
    print("locked", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys, time
from pathlib import Path
from tame.utils.checks import InputError
from tame.utils.folders import locked
folder, count = Path(sys.argv[1]), 0
until = time.monotonic() + 3
while time.monotonic() < until:
    try:
        with locked(folder):
            alone = folder / "alone"
            alone.touch(exist_ok=False)
            time.sleep(0.002)
            alone.unlink()
            count += 1
    except InputError:
        time.sleep(0.001)
print(count)
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(tame.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], env=environment, text=True, stdout=subprocess.PIPE
    )


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder whose lock and half written file a killed process left; nobody has waited for it yet."""
    process = start(HOLD, tmp_path)
    assert process.stdout and process.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match=f"in use by process {process.pid} on .* wait until that has ended, or choose"):
        locked(tmp_path).__enter__()
    process.kill()
    while Owner.of((tmp_path / LOCK).read_text()).lives():  # type: ignore[union-attr]
        time.sleep(0.01)
    assert len(list(tmp_path.iterdir())) == 2
    yield tmp_path  # type: ignore[misc]
    process.communicate()


def test_the_next_run_takes_over_the_lock_of_a_killed_one_and_removes_its_temporaries(killed: Path) -> None:
    with locked(killed) as check:
        check()
        assert [path.name for path in killed.iterdir()] == [LOCK]
    assert not list(killed.iterdir())


def test_the_next_write_removes_the_temporaries_of_killed_processes_where_nothing_is_locked(killed: Path) -> None:
    temporary = next(killed.glob("*.tmp"))
    unknown = killed / f".tame-{'0' * 12}-1-2-abcdef01.tmp"  # of another machine
    unknown.touch()
    with replacing(killed / "note.txt") as current:
        current.write_text("whole")
        assert not temporary.exists() and unknown.exists() and current.exists()
    assert (killed / "note.txt").read_text() == "whole"


def test_temporaries_in_folders_of_ours_are_removed_and_no_others(killed: Path) -> None:
    temporary = next(killed.glob("*.tmp"))
    claim(killed, ["parts/", "looks/one.npy"])
    for folder in ("parts", "looks", "mine"):
        (killed / folder).mkdir()
        (killed / folder / temporary.name).touch()
    (killed / ".other.tmp").touch()
    with replacing(killed / "parts" / "now.csv") as current, locked(killed):
        assert current.exists()  # of a process that runs
    left = sorted(path.relative_to(killed).as_posix() for path in killed.rglob("*.tmp"))
    assert left == [".other.tmp", f"mine/{temporary.name}"]


def test_a_process_with_the_number_of_a_dead_one_does_not_hold_its_lock(tmp_path: Path) -> None:
    own = Owner.own()
    (tmp_path / LOCK).write_text(json.dumps({"process": str(own._replace(start="1"))}))
    with locked(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps({"process": str(own), "host": "here", "since": "today"}))
    with pytest.raises(InputError, match=f"in use by process {own.pid} on here"), locked(tmp_path):
        pass


def test_where_the_system_tells_no_start_only_this_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tame.utils.owner._start", lambda _: "")
    own = Owner.own()
    assert Owner.of(str(own)) == own == (own.machine, os.getpid(), "")
    assert own.lives() and own._replace(pid=1).lives() is None


@pytest.mark.parametrize("content", [f'{{"process": "{"0" * 12}-7-99", "host": "far", "since": "today"}}', "", "{"])
def test_a_lock_that_cannot_be_asked_is_held_as_long_as_it_is_renewed(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another machine, or one whose process was killed before it wrote its name."""
    monkeypatch.setattr(folders, "_PATIENCE", 0.5)
    monkeypatch.setattr(folders, "_RENEWED", 0.05)
    lock, ended = tmp_path / LOCK, threading.Event()
    lock.write_text(content)
    thread = threading.Thread(target=folders._renew, args=(lock, ended))
    thread.start()
    with pytest.raises(InputError, match="process 7 on far" if "far" in content else "another process"):
        locked(tmp_path).__enter__()
    ended.set()
    thread.join()
    assert lock.read_text() == content
    with locked(tmp_path) as check:
        check()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_another_process_took_over_is_noticed_and_left(tmp_path: Path) -> None:
    with locked(tmp_path) as check:
        (tmp_path / LOCK).write_text("other")
        with pytest.raises(InputError, match="another process has taken over"):
            check()
    assert (tmp_path / LOCK).read_text() == "other"


def test_one_of_many_has_the_lock(tmp_path: Path) -> None:
    """Also while some of them are killed: at any time at most one is inside."""
    victims = [start(HOLD, tmp_path / "victims")]
    assert victims[0].stdout and victims[0].stdout.readline() == "locked\n"
    victims[0].send_signal(signal.SIGKILL)
    victims[0].communicate()
    many = [start(COUNT, tmp_path / "victims") for _ in range(4)]
    counts = [process.communicate(timeout=60)[0] for process in many]
    assert [process.returncode for process in many] == [0] * 4  # `touch` found no other one inside
    assert sum(map(int, counts)) > 20
    assert not list((tmp_path / "victims").iterdir())


def test_only_files_of_ours_are_claimed_twice(tmp_path: Path) -> None:
    claim(tmp_path, ["rows.csv", "parts/"])
    (tmp_path / "rows.csv").write_text("ours")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.csv").write_text("ours")
    (tmp_path / "table.md").write_text("mine")
    claim(tmp_path, ["rows.csv", "parts/", "looks/"])
    assert claimed(tmp_path) == {"rows.csv", "parts/", "looks/"}
    with pytest.raises(InputError, match=r"holds table.md, which no run wrote: choose another output folder \(out\)"):
        claim(tmp_path, ["rows.csv", "table.md"])
    assert claimed(tmp_path) == {"rows.csv", "parts/", "looks/"}
    claim(tmp_path, ["table.md"], known=True)
    assert "table.md" in claimed(tmp_path)


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_whatever_stands_at_a_name_is_foreign(tmp_path: Path, what: str) -> None:
    path = tmp_path / "parts"
    if what == "file":
        path.write_text("mine")
    elif what == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        (path / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="holds parts/, which no run wrote"):
        claim(tmp_path, ["parts/"])
    assert not (tmp_path / folders.FILES).exists()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    claim(tmp_path, ["parts/"])


def test_many_foreign_files_are_counted(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a, b, c and 2 more, which no run wrote"):
        claim(tmp_path, list("abcde"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": [1]}', b"\xff\x00", b"[" * 100_000])
def test_a_damaged_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / folders.FILES).write_bytes(content)
    with pytest.raises(InputError, match=r"\.tame-files\.json.*Choose another output folder \(out\)"), locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
