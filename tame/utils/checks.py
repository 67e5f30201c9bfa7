"""Checks of user input, which raise `InputError` with the expected and the actual value."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_SIDE = 8192
"""Pixels of the side of a classifier's input, at most: one such image takes 0.8 GB of memory."""


_MOST_VALUES = 100_000


class InputError(ValueError):
    """Invalid user input; the message says what was expected and what was received, on one line (`shown`)."""

    def __init__(self, message: object) -> None:
        super().__init__(shown(message))


def shown(text: object) -> str:
    r"""Return text on one line that a terminal prints as it is.

    Line breaks, tabs, escape characters and bytes that are not UTF-8, as names of files may contain them, are escaped.

    Example:
        >>> print(shown("caf\u00e9\n\x1b[2J" + chr(0xDCFF)))
        café\n\x1b[2J\udcff
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape_message(record: logging.LogRecord) -> bool:
    """Escape a log message as `shown` does; a filter of this package's logger that keeps all messages."""
    record.msg, record.args = shown(record.getMessage()), ()
    return True


def check_size(content: object, source: object) -> None:
    """Check that what was read from a YAML, JSON or TOML file is not much more than the file says itself.

    Args:
        content: Values; an alias of YAML counts as often as it is used.
        source: The file, for error messages.

    Raises:
        InputError: For more than 100,000 values, as a few lines of aliases of aliases, or of themselves, stand for.
    """
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise InputError(f"expected at most {_MOST_VALUES} values in {source}, got more (aliases of aliases?)")
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value


def check_sides(name: str, value: object) -> None:
    """Check that ``value`` is a number of pixels or a tuple (height, width), each from 1 to `LARGEST_SIDE`.

    Args:
        name: Name of the value, for the error message.
        value: The value.

    Raises:
        InputError: For any other value.
    """
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in sides):
        raise InputError(
            f"expected {name} of 1 to {LARGEST_SIDE} pixels, a number or (height, width), got {reprlib.repr(value)}"
        )


def check_images(images: Tensor, channels: int) -> None:
    """Check that ``images`` is a float tensor (B, C, H, W) with values in [0, 1].

    Raises:
        InputError: For another shape, dtype or range.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise InputError(f"expected images of shape (B, {channels}, H, W), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise InputError(f"expected float images in [0, 1], got {images.dtype} (divide by 255 first)")
    if images.numel():
        low, high = (value.item() for value in images.detach().aminmax())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise InputError(f"expected images in [0, 1], not normalised, got values in [{low:.4g}, {high:.4g}]")


def check_targets(targets: Tensor, batch: int, classes: int) -> None:
    """Check that ``targets`` is an int64 tensor (B,) of class indices in 0..classes - 1.

    Raises:
        InputError: For another shape, dtype or range.
    """
    if targets.shape != (batch,) or str(targets.dtype) != "torch.int64":
        raise InputError(
            f"expected targets of shape ({batch},) and type int64, got {tuple(targets.shape)} {targets.dtype}"
        )
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise InputError(f"expected targets in 0..{classes - 1}, got {int(targets.min())}..{int(targets.max())}")


def check_maps(maps: Tensor, batch: int) -> None:
    """Check that ``maps`` is a float tensor (B, h, w).

    Raises:
        InputError: For another shape or dtype.
    """
    if maps.ndim != 3 or maps.shape[0] != batch or not maps.is_floating_point():
        raise InputError(f"expected float maps of shape ({batch}, h, w), got {tuple(maps.shape)} {maps.dtype}")
