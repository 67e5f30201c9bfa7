"""Combine several numbers into one seed."""

from __future__ import annotations

import hashlib


def mixed_seed(*parts: int) -> int:
    """Return a seed derived from several numbers, such that similar numbers give unrelated seeds.

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
