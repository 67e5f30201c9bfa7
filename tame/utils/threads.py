"""Several threads in one process: state of the whole process changes in one thread at a time, hooks see one thread."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO

import torch


def process_lock() -> AbstractContextManager[bool]:
    """Return a lock that its thread may acquire several times, and that is free in processes forked meanwhile."""
    lock: Any = threading.RLock()
    if hasattr(os, "register_at_fork"):  # there is no fork on Windows
        os.register_at_fork(after_in_child=lock._at_fork_reinit)
    held: AbstractContextManager[bool] = lock
    return held


PROCESS = process_lock()
"""Held while state of the whole process is changed for a while: generators of random numbers, filters of warnings,
torch's settings. The lock of a network, see `tame.classifier.locks`, is acquired before it, never after it."""


@contextmanager
def random_state(seed: int | None = None, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restore torch's global random state after the block; one thread at a time.

    Args:
        seed: Where the random numbers of the block start; default: where the global generator is.
        devices: Devices whose generators are restored too, beside the CPU's.

    Example:
        >>> with random_state(3):
        ...     first = torch.rand(1)
        >>> with random_state(3):
        ...     torch.equal(torch.rand(1), first)
        True
    """
    with PROCESS, torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that acts in the present thread only: other threads may run the same module meanwhile."""
    owner = threading.get_ident()

    @functools.wraps(hook)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == owner else None

    return guarded


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what this thread prints within the block; other threads print as ever. Hold `PROCESS`."""
    before = sys.stdout, sys.stderr
    streams = [_OtherThreads(stream, threading.get_ident()) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.silent = None  # somebody may have kept it, such as a log handler made meanwhile


class _OtherThreads:
    """A stream that discards what one thread writes."""

    def __init__(self, stream: TextIO, silent: int | None) -> None:
        self._stream, self.silent = stream, silent

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.silent else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
