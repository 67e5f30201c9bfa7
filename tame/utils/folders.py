"""Folders that a run writes: one run at a time, and only files that a run wrote are replaced."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tame.utils.checks import InputError, shown
from tame.utils.io import read_json, write_json, writing
from tame.utils.owner import TEMPORARY, Owner, remove_leftovers

LOCK = ".tame-lock"
FILES = ".tame-files.json"
"""Manifest: the names of the files of a folder that this package writes."""

_RENEWED, _PATIENCE = 5.0, 60.0  # seconds: of a living lock, and until a lock that is not renewed is taken over

logger = logging.getLogger("tame")


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Let one process at a time write to a folder, on one machine or several that share it.

    A lock of a process that has ended is taken over: on this machine at once, of another machine when it has not been
    renewed for a minute. Temporary files that ended processes left are removed.

    Args:
        folder: Created if it does not exist.

    Yields:
        A function that raises InputError if another process has taken over the lock.

    Raises:
        InputError: If a process that still runs holds the lock; if the path, or one above it, is a file.
        WriteError: If the folder cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> with locked(folder) as check:
        ...     check()
        >>> list(folder.iterdir())
        []
    """
    check_folder(folder)
    path = folder / LOCK
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        content = _acquire(path)
    ended = threading.Event()
    threading.Thread(target=_renew, args=(path, ended), daemon=True, name="lock").start()

    def check() -> None:
        if _read(path) != content:
            raise InputError(f"another process has taken over {shown(folder)}; what this one finished is kept")

    try:
        for each in _folders(folder):
            remove_leftovers(each)
        yield check
    finally:
        ended.set()
        if _read(path) == content:
            path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Check that results can be written to a folder, which need not exist.

    Raises:
        InputError: If its path, or one above it, is a file.
    """
    if file := next((each for each in (folder, *folder.parents) if each.exists() and not each.is_dir()), None):
        raise InputError(f"expected a folder to write the results to, got {shown(folder)}: {shown(file)} is a file")


def check_kind(settings: Path, keys: Set[str]) -> None:
    """Check that the settings in a folder, if they can be read, are those of a run of the same kind.

    Args:
        settings: JSON file with the settings of a run, which need not exist.
        keys: What the settings of every run of this kind have.

    Raises:
        InputError: If they are of another kind, such as of a training where an evaluation is to be written.
    """
    try:
        found = read_json(settings, "").keys()
    except InputError:
        return  # absent or damaged
    if not found >= keys:
        raise InputError(
            f"{shown(settings.parent)} holds {settings.name} of another kind of run: choose another output folder (out)"
        )


def claim(folder: Path, names: Iterable[str], known: bool = False) -> None:
    """Note which files of a folder a run writes, before it writes them; files of anyone else are never replaced.

    Args:
        folder: The folder, which should be locked.
        names: Names of files, relative to it; ``name/`` stands for a folder.
        known: Whether existing files are of an earlier run, even if no manifest says so.

    Raises:
        InputError: If there are such files, or folders with files, that no run wrote; nothing is changed then.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "rows.csv").write_text("mine")
        >>> claim(folder, ["rows.csv", "parts/"])
        Traceback (most recent call last):
        tame.utils.checks.InputError: ... holds rows.csv, which no run wrote: choose another output folder (out)
    """
    before, names = claimed(folder), list(names)
    new = [name for name in names if name not in before]
    foreign = [] if known else [name for name in new if _occupied(folder / name)]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise InputError(
            f"{shown(folder)} holds {', '.join(map(shown, foreign[:3]))}{more}, which no run wrote: "
            "choose another output folder (out)"
        )
    if new:
        write_json(folder / FILES, {"files": sorted({*before, *new})})


def claimed(folder: Path) -> set[str]:
    """Return the names of the files of a folder that runs wrote or were about to write.

    Raises:
        InputError: If the manifest is damaged.
    """
    path = folder / FILES
    if not path.is_file():
        return set()
    remedy = "Choose another output folder (out)"
    files = read_json(path, remedy).get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise InputError(f"{shown(path)} is damaged: expected a list of files. {remedy}")
    return set(files)


def is_tidy(folder: Path) -> bool:
    """Return whether no lock and no temporary file is in a folder, so that no run writes there or was killed."""
    return not any(any(each.glob(pattern)) for each in _folders(folder) for pattern in (f"{LOCK}*", TEMPORARY))


def _folders(folder: Path) -> set[Path]:
    """Return a folder and those in it that hold files of ours."""
    names = claimed(folder)
    return {folder, *(folder / name if name.endswith("/") else (folder / name).parent for name in names)}


def _occupied(path: Path) -> bool:
    """Whether a path is taken by anything but an empty folder."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)


def _acquire(path: Path) -> str:
    """Create the lock and return its content; a stale one is removed first."""
    content = json.dumps(
        {"process": str(Owner.own()), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}"}
    )
    while True:
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            _remove_stale(path)
            continue
        try:
            with os.fdopen(file, "wb") as lock:
                lock.write(content.encode())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return content


def _remove_stale(path: Path) -> None:
    """Remove a lock of a process that has ended.

    Raises:
        InputError: If the process still runs.
    """
    content = _read(path)
    if content is None:
        return
    if _is_held(path, content):
        raise InputError(
            f"{shown(path.parent)} is in use by {_holder(content)}: "
            "wait until that has ended, or choose another output folder (out)"
        )
    guard = path.with_name(f"{LOCK}-{Owner.of(content) or 'unknown'}")  # of several that see it, one removes it
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        time.sleep(1)  # another process is about to, or was killed at it
    try:
        if _read(path) == content:
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _is_held(path: Path, content: str) -> bool:
    """Whether the process that wrote a lock still runs; if that cannot be asked, whether it renews the lock."""
    owner = Owner.of(content)
    if owner is not None and (lives := owner.lives()) is not None:
        return lives
    before, until = _renewal(path), time.monotonic() + _PATIENCE
    logger.info("Waiting up to %.0f s for %s, to see whether it still runs.", _PATIENCE, _holder(content))
    while time.monotonic() < until:
        time.sleep(min(1.0, _PATIENCE / 10))
        if _renewal(path) != before:
            return _read(path) is not None
    return False


def _renewal(path: Path) -> int | None:
    """Return when a lock was renewed last; opened, so that a network file system asks its server."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _renew(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED):
        try:
            os.utime(path)
        except OSError:
            continue  # a network file system may be away for a while


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _holder(content: str) -> str:
    """Return the process that holds a lock in words."""
    owner = Owner.of(content)
    try:
        found = json.loads(content)
        return f"process {owner.pid if owner else '?'} on {found['host']} (since {found['since'][:16]})"
    except (KeyError, TypeError, ValueError):
        return "another process"
