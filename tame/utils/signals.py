"""What SIGTERM does to a process: it ends like an interruption, so that files and worker processes are cleaned up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_CHILD = getattr(signal, "SIGCHLD", None)  # of the end of a worker process; Windows has none
_SOON = 0.05  # seconds, after which the place that drops exceptions is left

_received: list[int] = []  # signals that are ending what runs


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
    After a signal, finalizers of what was left half done print no errors, and errors that it led to are not raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    dropped: list[int] = []
    hook, numbers = sys.unraisablehook, [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _answer) for number in numbers}
    sys.unraisablehook = lambda what: _notice(what, dropped, hook)
    try:
        yield
    except BaseException as error:
        if _received:
            _let_go(error)
            if isinstance(error, Exception):  # code in C made it of what the signal raised
                _raise(_received[-1])
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()
        if dropped:
            _raise(dropped.pop())


def note(number: int) -> None:
    """Note that a signal ends what runs, before what it raises."""
    _received.append(number)
    if _CHILD and getattr(signal.getsignal(_CHILD), "__module__", "").startswith("torch."):
        signal.signal(_CHILD, lambda *_: None)  # torch raises where workers are ended too, such as by a scheduler


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of an exception hold, so that it is finalised now."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _answer(number: int, _: object) -> NoReturn:
    note(number)
    _raise(number)


def _raise(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _notice(what: sys.UnraisableHookArgs, dropped: list[int], hook: Callable[[Any], object]) -> None:
    """Send a signal again if it raised an exception that Python drops; pass other exceptions on."""
    error = what.exc_value
    number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "number", None)
    if number is not None and not isinstance(error, Exception):
        dropped.append(number)
        threading.Timer(_SOON, _send, [dropped]).start()
    elif not _received:
        hook(what)


def _send(dropped: list[int]) -> None:
    if dropped:
        os.kill(os.getpid(), dropped.pop())
