"""Keep freed memory in the process on the CPU, instead of returning it to the system after each use."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # constants of malloc.h


def keep_memory() -> bool:
    """Configure the C library to keep freed memory in this process.

    By default, glibc maps each block above 32 MiB separately and unmaps it after use, which costs a page fault per page
    each time; feature maps of a few images reach this size. Keeping the memory makes inference and training on the CPU
    faster (`benchmarks/memory.py`), but this process and those forked from it hold their peak memory until they end.
    ``TAME_KEEP_MEMORY=0`` in the environment turns this off.

    Returns:
        Whether the memory is kept: False for C libraries other than glibc, or if the environment turns it off.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if os.environ.get("TAME_KEEP_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
