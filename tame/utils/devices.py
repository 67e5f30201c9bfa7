"""Which device and which precision a run uses: asked for, or the best there is."""

from __future__ import annotations

import logging

import torch

from tame.utils.checks import InputError

logger = logging.getLogger("tame")


def resolve_device(asked: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``.

    Args:
        asked: One of these, or ``auto``: CUDA where there is one, else the CPU, which is said.

    Raises:
        InputError: If the device is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        if there["cuda"]:
            return "cuda"
        logger.info("No CUDA device is available: running on the CPU.")
        return "cpu"
    if not there.get(asked, False):
        available = ", ".join(name for name, usable in there.items() if usable)
        raise InputError(f"expected --device auto or one of {available}, got {asked!r}, which is not available here")
    return asked


def resolve_precision(asked: str, device: str, training: bool = False) -> str:
    """Return ``32``, ``16-mixed`` or ``bf16-mixed``.

    Args:
        asked: One of these, or ``auto``: 16-mixed for training on CUDA, else 32.
        device: Result of `resolve_device`.
        training: Whether it is for training.

    Raises:
        InputError: If the device cannot compute so.
    """
    if asked == "auto":
        return "16-mixed" if training and device == "cuda" else "32"
    if asked == "16-mixed" and device == "cpu":
        raise InputError("expected --precision 32 or bf16-mixed on the CPU, got '16-mixed'")
    return asked


def rows_per_pass(device: str | torch.device) -> int:
    """Return how many images a pass through a classifier best takes: 8 on the CPU, 256 on other devices.

    Measured on two cores, EfficientNet-Lite0: where memory is not kept (`tame.utils.memory`), each of 32 takes about
    three times as long; where it is, the size hardly matters, but for very small networks.
    """
    return 8 if torch.device(device).type == "cpu" else 256
