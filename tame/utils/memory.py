"""Memory for large tensors on the CPU: kept for the next one, not given back after each use."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> bool:
    """Tell the C library to keep freed memory for this process.

    glibc maps every block above 32 MiB anew and unmaps it after use, so each of its pages costs a fault each time; a
    feature map of a few images is as large as that. Kept memory makes classifying and training on the CPU quicker
    (`benchmarks/memory.py`); the process holds on to the most that it ever used, and so do those forked from it.
    ``TAME_KEEP_MEMORY=0`` in the environment leaves everything as it is.

    Returns:
        Whether it was done: False for another C library, or as the environment says.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if os.environ.get("TAME_KEEP_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
