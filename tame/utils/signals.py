"""What SIGTERM does to a process: it ends like an interruption, so that files and worker processes are cleaned up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

_CHILD = getattr(signal, "SIGCHLD", None)  # of the end of a worker process; Windows has none
_SOON = 0.05  # seconds, after which the place that drops exceptions is left


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM; its exit status is 143, as shells report it."""

    number = signal.SIGTERM

    def __init__(self, message: str = "") -> None:
        super().__init__(128 + self.number)
        self.message = message

    def __str__(self) -> str:
        return self.message or "terminated"


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the block if SIGTERM arrives; nothing changes outside of the main thread.

    What a signal raises in a finalizer, or while a process is forked, Python drops: the signal is sent again then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, _terminate), sys.unraisablehook
    sys.unraisablehook = lambda dropped: _send_again(dropped, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def _send_again(dropped: sys.UnraisableHookArgs, hook: Callable[[sys.UnraisableHookArgs], object]) -> None:
    error = dropped.exc_value
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "number", None)
    if isinstance(error, Exception) or number is None:
        hook(dropped)
    else:
        threading.Timer(_SOON, os.kill, (os.getpid(), number)).start()


def _terminate(*_: object) -> NoReturn:
    if _CHILD and getattr(signal.getsignal(_CHILD), "__module__", "").startswith("torch."):
        signal.signal(_CHILD, signal.SIG_DFL)  # torch raises where workers are ended too, such as by a scheduler
    raise Terminated
