"""Seeds made of several numbers."""

from __future__ import annotations

import hashlib


def mixed_seed(*parts: int) -> int:
    """Return a seed made of several numbers, unrelated to those of their neighbours.

    Example:
        >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
