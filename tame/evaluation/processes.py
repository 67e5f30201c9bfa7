"""Several processes that share an evaluation, started by Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tame.utils.checks import InputError
from tame.utils.limits import check_numbers
from tame.utils.processes import end_with_parent

_LONGEST_WAIT = timedelta(days=30)  # processes may differ in speed; one that ended is noticed at once


@dataclass(frozen=True)
class Process:
    """One of several processes that share a run.

    Attributes:
        rank: Its rank; 0 is the main process.
        count: Number of processes.
        wait: Barrier: returns when all processes have called it.
        from_first: Broadcast: returns, in all processes, what the main process gives to it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None
    from_first: Callable[[bool], bool] = lambda value: value

    @contextmanager
    def leading(self) -> Iterator[bool]:
        """Let the main process do something before the others proceed; yield whether this is the main process.

        If the main process fails, it raises its error, and the others end silently with exit status 2.
        """
        try:
            yield self.rank == 0
        except Exception:
            if self.rank == 0:
                self.from_first(False)
            raise
        if not self.from_first(True):
            raise SystemExit(2)


class Processes:
    """The processes of this node, one per device; one process on one node needs no starting.

    Args:
        device: ``cuda`` or ``cpu``; processes on CPUs communicate by gloo.
        devices: Devices per node, or processes on its CPU.
        num_nodes: Number of nodes; start the program on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.

    Attributes:
        device: The device that this process computes on; known before the others are started.

    Raises:
        InputError: For numbers out of their limits, or more devices than there are.
    """

    def __init__(self, device: str, devices: int = 1, num_nodes: int = 1) -> None:
        check_numbers(devices=devices, num_nodes=num_nodes)
        self.device, self._fabric = device, None
        if devices * num_nodes == 1:
            return
        from lightning import Fabric
        from lightning.fabric.strategies.ddp import DDPStrategy
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        strategy = DDPStrategy(timeout=_LONGEST_WAIT)
        try:
            self._fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy=strategy)
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            raise InputError(f"cannot use {devices} devices of kind {device}: {error}") from error
        self.device = str(self._fabric.device)

    def start(self) -> Process:
        """Start the other processes, each of which runs the same program from its beginning, and return this one.

        A process that was started by another one ends with it.
        """
        fabric = self._fabric
        if fabric is None:
            return Process()
        if fabric.local_rank > 0:
            end_with_parent()
        fabric.launch()
        barrier, broadcast = _together(fabric.barrier), _together(fabric.broadcast)
        return Process(fabric.global_rank, fabric.world_size, barrier, broadcast)


def _together(meet: Callable[..., Any]) -> Callable[..., Any]:
    """Return a collective call that raises an error in plain words where another process has ended."""

    def call(*values: bool) -> Any:
        try:
            return meet(*values)
        except RuntimeError as error:
            raise InputError("another process of this run has stopped; its own message says why") from error

    return call
