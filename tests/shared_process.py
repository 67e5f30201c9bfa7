"""Several processes that share a run, as threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tame.evaluation.processes import Process
from tame.utils.checks import InputError


class Shared:
    """What threads use as processes of one run; nothing may be built in them, as tracing is made for one thread."""

    def __init__(self, count: int = 2) -> None:
        self.count, self.barrier, self.said = count, threading.Barrier(count, timeout=60), True

    def process(self, rank: int) -> Process:
        def from_first(value: bool) -> bool:
            if rank == 0:
                self.said = value
            self.barrier.wait()
            said = self.said
            self.barrier.wait()
            return said

        return Process(rank, self.count, self.barrier.wait, from_first)

    def run(self, work: Callable[[Process], object]) -> list[object]:
        """Return what each process returns or raises."""
        results: list[object] = [None] * self.count

        def one(rank: int) -> None:
            try:
                results[rank] = work(self.process(rank))
            except BaseException as error:
                results[rank] = error
                if not isinstance(error, InputError | SystemExit):
                    self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
