"""Processes that end together with the one that started them, and ends that are noticed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from tame.utils.checks import InputError


def end_with_parent(worker: int = 0) -> None:
    """End this process within about a second after its parent ended, killed or not, whatever this process is doing.

    A worker of a `torch.utils.data.DataLoader` otherwise waits for ever for somebody to read what it was sending.

    Args:
        worker: Number of the worker, not used; with it, this function is a ``worker_init_fn``.
    """
    started_by, parent = os.getppid(), multiprocessing.parent_process()  # these differ where a server forks

    def wait_for_end() -> None:
        while os.getppid() == started_by and (parent is None or parent.is_alive()):  # Windows keeps the first
            time.sleep(1)
        os._exit(2)

    threading.Thread(target=wait_for_end, daemon=True, name="parent-observer").start()
    if parent:
        sys.excepthook = _say_nothing_of_readers


def _say_nothing_of_readers(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as Python does, unless the parent no longer reads what a thread of this process is sending."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def is_of_ended_worker(error: Exception) -> bool:
    """Whether torch raised an error since a worker was killed."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


@contextmanager
def noticing_ended_workers(*also: type[Exception]) -> Iterator[None]:
    """Raise an error in plain words where a worker of a `torch.utils.data.DataLoader` was killed.

    Enclose all that is done with its batches: torch raises an error wherever the main thread is at that moment.

    Args:
        also: Errors that mean the same here. Where batches are received, these are ``ConnectionError, EOFError``, of a
            worker that was sending.

    Raises:
        InputError: For such a worker.
    """
    kinds: tuple[type[Exception], ...] = (RuntimeError, *also)
    try:
        yield
    except kinds as error:
        if not isinstance(error, also) and not is_of_ended_worker(error):
            raise
        raise InputError(
            "a process that reads images was ended, perhaps for lack of memory; what is done is kept. Run the same "
            "again, with fewer of them (num_workers)"
        ) from error
