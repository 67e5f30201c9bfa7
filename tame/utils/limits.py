"""The numbers that arguments may be: one table by the argument's name, for functions and for the command line."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NamedTuple

from tame.utils.checks import InputError

_PROCESSORS = os.cpu_count() or 1
_MANY = 2**31 - 1


class Limits(NamedTuple):
    """Which numbers an argument may be.

    Attributes:
        least: The smallest one.
        most: The largest one.
        whole: Whether it is a whole number.
        positive: Whether it is larger than 0.
    """

    least: float = 1
    most: float = _MANY
    whole: bool = True
    positive: bool = False

    def expected(self, number: Any) -> str:
        """Return what is expected in the place of a number."""
        if self.positive:
            return "above 0"
        if self.most != _MANY:
            return f"from {self.least:g} to {self.most:.17g}"
        return f"of at most {_MANY}" if isinstance(number, int) and number > _MANY else f"of at least {self.least:g}"

    def accept(self, number: Any) -> bool:
        """Whether a number is one of these."""
        is_number = isinstance(number, Integral if self.whole else Real) and not isinstance(number, bool)
        if not is_number or not self.least <= number <= self.most:
            return False
        return math.isfinite(number) and (number > 0 or not self.positive)


_COUNT = Limits()
_COUNT_OR_NONE = Limits(0)
_RATE = Limits(0, math.inf, whole=False, positive=True)

LIMITS = {
    "batch_size": _COUNT,
    "clip": Limits(0, whole=False),
    "devices": Limits(1, max(16, _PROCESSORS)),
    "epochs": _COUNT_OR_NONE,
    "init_images": _COUNT,
    "limit_images": _COUNT,
    "limit_val_images": _COUNT,
    "lr": _RATE,
    "masks": _COUNT,
    "max_lr": _RATE,
    "min_lr": _RATE,
    "num_classes": Limits(1, 1_000_000),
    "num_nodes": Limits(1, 65_536),
    "num_workers": Limits(0, max(64, 4 * _PROCESSORS)),
    "pass_rows": _COUNT,
    "per_label": _COUNT,
    "report_images": _COUNT_OR_NONE,
    "sample": _COUNT_OR_NONE,
    "seed": Limits(0, 2**32 - 1),  # what every random generator takes
    "start_layer": _COUNT_OR_NONE,
    "steps": Limits(1, 100_000),
    "top": _COUNT,
}
"""Numbers by the name of the argument, wherever it occurs."""


def check_numbers(written: Callable[[str], str] = str, /, **values: Any) -> None:
    """Check numbers against `LIMITS`; values of other names, and those that are None, are not set.

    Args:
        written: How the name of an argument is written in messages.
        values: Values by the name of the argument.

    Raises:
        InputError: For a number out of its limits, or anything that is no number.

    Example:
        >>> check_numbers(batch_size=8, epochs=None)
        >>> check_numbers(batch_size=0)
        Traceback (most recent call last):
        ...
        tame.utils.checks.InputError: expected batch_size of at least 1, got 0
    """
    for name, value in values.items():
        limits = LIMITS.get(name)
        if limits is None or value is None or limits.accept(value):
            continue
        kind = "as a whole number " if limits.whole and not isinstance(value, Integral) else ""
        raise InputError(f"expected {written(name)} {kind}{limits.expected(value)}, got {_short(value)}")


def _short(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a number of about {int(value.bit_length() * math.log10(2))} digits"
