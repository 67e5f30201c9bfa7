"""Which process wrote a temporary file or holds a lock, and whether it still runs."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

TEMPORARY = ".tame-*.tmp"
"""Pattern of the names of temporary files."""


class Owner(NamedTuple):
    """A process, so that another one with the same number is not taken for it.

    Attributes:
        machine: The machine since its start, and its container: numbers of processes are compared within these only.
        pid: Number of the process.
        start: When it started, in ticks since the machine did; empty where the system does not tell.
    """

    machine: str
    pid: int
    start: str

    @classmethod
    def own(cls) -> Self:
        """Return this process."""
        return cls(_machine(), os.getpid(), _start(os.getpid()))

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the process in a text that holds ``str(owner)``, None without one.

        Example:
            >>> Owner.of(f"written by {Owner.own()}") == Owner.own()
            True
        """
        found = re.search(r"\b([0-9a-f]{12})-(\d+)-(\d*)(?!\d)", text)
        return cls(found[1], int(found[2]), found[3]) if found else None

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid}-{self.start}"

    def lives(self) -> bool | None:
        """Return whether the process still runs; None if this cannot be told, as on another machine."""
        own = Owner.own()
        if self == own:
            return True
        if self.machine != own.machine or not own.start:
            return None
        return _start(self.pid) == self.start


def temporary_name() -> str:
    """Return a new name for a temporary file of this process."""
    return TEMPORARY.replace("*", f"{Owner.own()}-{uuid4().hex[:8]}")


def remove_leftovers(folder: Path, unknown: bool = True) -> None:
    """Remove temporary files of processes that no longer run from a folder.

    Args:
        folder: The folder.
        unknown: Also remove files of processes that cannot be asked, as of other machines: for a folder that is locked,
            so that no other machine writes there.
    """
    for file in folder.glob(TEMPORARY):
        owner = Owner.of(file.name)
        lives = owner.lives() if owner else None
        if lives is False or (lives is None and unknown):
            with suppress(OSError):  # of another user, for instance
                file.unlink(missing_ok=True)


@cache
def _machine() -> str:
    try:
        boot, container = Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/ns/pid").readlink()
    except OSError:
        return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]
    return hashlib.sha256(f"{socket.gethostname()} {boot} {container}".encode()).hexdigest()[:12]


def _start(pid: int) -> str:
    """Return when a process started, empty if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]
