"""Commands of `tame` in processes of their own, which can be killed; Linux only."""

from __future__ import annotations

import atexit
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from multiprocessing import util
from pathlib import Path

import torch

from tame.cli.commands import COMMANDS
from tame.cli.main import main

_LONGEST = 120.0  # seconds of a run; the toys take about two


class Started:
    """A process of a command, in a session of its own.

    Args:
        arguments: The command line.
        folder: Where its output and its temporary files go.
        fresh: Whether it is a new interpreter, instead of a fork of this one, which has loaded the libraries.

    Attributes:
        status: Its exit status, the negative number of a signal that ended it; None while it runs.
        seconds: How long it ran.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, fresh: bool = False) -> None:
        self.output, self.temporary = folder / "output", folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.status: int | None = None
        self.seconds = 0.0
        self.pid = self._interpreter(arguments) if fresh else self._fork(arguments)
        self._began = time.monotonic()

    def _interpreter(self, arguments: Sequence[str]) -> int:
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tame", *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        process.returncode = 0  # this class waits for it
        return process.pid

    def _fork(self, arguments: Sequence[str]) -> int:
        sys.stdout.flush()
        begins, told = os.pipe()
        pid = os.fork()
        if not pid:
            self._run(arguments, told)
        os.close(told)
        select.select([begins], [], [], _LONGEST)  # it is readable when the command begins
        os.close(begins)
        return pid

    def _run(self, arguments: Sequence[str], told: int) -> None:
        """Be the process: run the command, and end as an interpreter does."""
        status = 1
        try:
            os.setsid()
            os.environ["TMPDIR"] = tempfile.tempdir = str(self.temporary)
            output = os.open(self.output, os.O_CREAT | os.O_WRONLY, 0o666)
            for stream in (1, 2):
                os.dup2(output, stream)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, PTH123 - pytest captures the one of before
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115, PTH123
            atexit._clear()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(told, b".")
            status = main(arguments)
            for number in (signal.SIGINT, signal.SIGTERM):  # it comes too late
                signal.signal(number, signal.SIG_IGN)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                util._exit_function()
                atexit._run_exitfuncs()
                for thread in threading.enumerate():
                    if thread is not threading.main_thread() and not thread.daemon:
                        thread.join(10)
                sys.stdout.flush()
            finally:
                os._exit(status)

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; return whether it has ended."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self._began
            elif time.monotonic() >= until:
                return False
            else:
                time.sleep(min(0.002, max(0.0, until - time.monotonic())))
        return True

    def finish(self) -> int:
        """Wait for its end, and return its exit status; 124 if it does not end."""
        if not self.wait(_LONGEST):
            self.end()
            os.waitpid(self.pid, 0)
            self.status = 124
        return self.status or 0

    def kill(self, number: int, group: bool) -> None:
        """Send a signal to the process, or to its workers too, as Ctrl-C in a terminal does."""
        (os.killpg if group else os.kill)(self.pid, number)

    def living(self) -> list[int]:
        """Return what still runs of it and its workers."""
        return [pid for pid in _processes() if _session(pid) == self.pid]

    def end(self) -> None:
        """Kill what still runs of it."""
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace")

    @property
    def said(self) -> list[str]:
        """The lines that name the command, as errors and interruptions do."""
        return [line for line in re.split(r"[\r\n]+", self.text) if line.startswith("tame ")]


def preload() -> None:
    """Import what commands import, so that a fork need not; nothing is computed: a fork has no threads of torch."""
    torch.set_num_threads(1)
    modules = [f"tame.cli.{name.replace('-', '_')}" for name in COMMANDS]
    for module in ("tame.cli.parsing", *modules, "lightning", "torchvision", "matplotlib.pyplot", "pandas", "torch.fx"):
        try:
            import_module(module)
        except ImportError:
            continue


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _session(pid: int) -> int | None:
    """Return the session of a process, None if it has ended."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(session)
