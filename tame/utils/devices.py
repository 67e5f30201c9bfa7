"""Choose the device and the precision of a run."""

from __future__ import annotations

import logging

import torch

from tame.utils.checks import InputError

logger = logging.getLogger("tame")


def resolve_device(device: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``.

    Args:
        device: One of these, or ``auto``: CUDA if it is available, otherwise the CPU, with a log message.

    Raises:
        InputError: If the device is not available.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        if usable["cuda"]:
            return "cuda"
        logger.info("No CUDA device is available: running on the CPU.")
        return "cpu"
    if not usable.get(device, False):
        available = ", ".join(name for name in usable if usable[name])
        raise InputError(f"expected the device auto or one of {available}, got {device!r}, which is not available")
    return device


def resolve_precision(precision: str, device: str, training: bool = False) -> str:
    """Return ``32``, ``16-mixed`` or ``bf16-mixed``.

    Args:
        precision: One of these, or ``auto``: 16-mixed for training on CUDA, otherwise 32.
        device: Result of `resolve_device`.
        training: Whether a training run is configured.

    Raises:
        InputError: For 16-mixed on the CPU.
    """
    if precision == "auto":
        return "16-mixed" if training and device == "cuda" else "32"
    if precision == "16-mixed" and device == "cpu":
        raise InputError("expected the precision 32 or bf16-mixed on the CPU, got '16-mixed'")
    return precision


def rows_per_pass(device: str | torch.device) -> int:
    """Return the number of images per forward pass of a classifier: 8 on the CPU, 256 on other devices.

    Measured on two CPU cores with EfficientNet-Lite0: passes of 32 images take about three times as long per image if
    freed memory is returned to the system (see `tame.utils.memory`); if it is kept, the number hardly matters, except
    for very small networks.
    """
    return 8 if torch.device(device).type == "cpu" else 256
