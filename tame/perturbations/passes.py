"""How passes through a classifier are made: rows per pass that fit the memory, precision, and time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tame.utils.devices import rows_per_pass
from tame.utils.limits import check_numbers

logger = logging.getLogger("tame")


class PassRows:
    """Rows per pass through the classifier: as many as fit, found by halving whenever memory runs out.

    Args:
        rows: Rows to start with; default: 8 on the CPU, 256 on other devices. An interrupted run resumes with the
            number that it had found, so that its numbers stay the same to the last digit.
        device: Device of the classifier.

    Raises:
        InputError: For a number below 1.
    """

    def __init__(self, rows: int | None = None, device: str | torch.device = "cpu") -> None:
        check_numbers(pass_rows=rows)
        self.rows = rows or rows_per_pass(device)

    def classify(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits of normalised inputs (n, C, H, W).

        Raises:
            torch.OutOfMemoryError: If even one row does not fit.
        """
        while True:
            try:
                return torch.cat([module(part) for part in inputs.split(self.rows)])
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise
            self.rows = max(1, self.rows // 2)
            logger.info("The device's memory is full: %d images per pass from now on.", self.rows)
            torch.cuda.empty_cache()  # does nothing where CUDA was not used


class Stopwatch:
    """Adds up the seconds spent in each of several activities.

    Args:
        device: Its pending work is waited for at both ends of a block, so that it counts for the right activity.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, activity: str) -> Iterator[None]:
        """Add the time of the block to ``activity``."""
        started = self._now()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class PassSettings:
    """How perturbed images pass through a classifier.

    Attributes:
        rows: Rows per pass; None: as many as fit.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``, of the passes alone.
        stopwatch: Gets the seconds of ``perturb`` and ``classify``; None: nothing is timed.
    """

    rows: PassRows | None = None
    precision: str = "32"
    stopwatch: Stopwatch | None = None


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a precision: ``16-mixed``, ``bf16-mixed``, or ``32``, which casts nothing."""
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")
