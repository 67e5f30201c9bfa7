"""Processes that end together with the one that started them, and ends that are noticed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def noticing_ended_workers() -> Iterator[None]:
    """Raise an error in plain words where a worker of a `torch.utils.data.DataLoader` was killed.

    Raises:
        InputError: For such a worker.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter while it was sending
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that reads images was ended, perhaps for lack of memory; what is done is kept. Run the same "
            "again, with fewer of them (num_workers)"
        ) from error
