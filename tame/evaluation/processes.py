"""Several processes that share an evaluation, started by Lightning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tame.checks import InputError


@dataclass(frozen=True)
class Process:
    """One of several processes that share a run.

    Attributes:
        rank: Which one.
        count: Of how many.
        device: What it computes on.
        wait: Returns when all of them have called it.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    wait: Callable[[], object] = lambda: None


def start_processes(device: str, devices: int = 1, num_nodes: int = 1) -> Process:
    """Start the processes of this machine, one per device, and return the own one.

    Each runs the same command from its beginning. One process on one machine starts nothing.

    Args:
        device: ``cuda`` or ``cpu``; processes on CPUs talk by gloo.
        devices: Devices per machine, or processes on its CPU.
        num_nodes: Machines; start the command on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.

    Raises:
        InputError: For numbers below 1, or more devices than there are.
    """
    if devices < 1 or num_nodes < 1:
        raise InputError(f"expected at least 1 device and 1 node, got {devices} and {num_nodes}")
    if devices * num_nodes == 1:
        return Process(device=device)
    from lightning import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy="ddp")
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise InputError(f"cannot use {devices} devices of kind {device}: {error}") from error
    fabric.launch()
    return Process(fabric.global_rank, fabric.world_size, str(fabric.device), fabric.barrier)
