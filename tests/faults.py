"""Faults of disks, made on purpose: writes, renames and flushes that fail; what a writer must do about them."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tame.utils.io import WriteError

SIZES = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946, 65536, 1 << 20)
"""Bytes after which a disk is full."""


@contextmanager
def write_fails_at(size: int) -> Iterator[None]:
    """Let the system refuse every byte of a file beyond the first ``size`` (EFBIG), whatever library writes it.

    It holds for all files of this process: print nothing meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def call_fails(call: str, name: str = "", number: int = errno.ENOSPC, after: int = 0) -> Iterator[None]:
    """Let a function of `os` fail: ``open`` (also EROFS), ``fsync`` (ENOSPC, as network disks say), ``replace`` (EIO).

    Args:
        call: Its name.
        name: Part of the path, or of the target of a rename; calls for other files succeed.
        number: Number of the error.
        after: How many calls succeed before.
    """
    inner, succeeded = getattr(os, call), 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal succeeded
        path = str(Path(f"/proc/self/fd/{arguments[0]}").readlink()) if call == "fsync" else str(arguments[-1])
        path = str(arguments[0]) if call == "open" else path
        if name not in path or (succeeded := succeeded + 1) <= after:
            return inner(*arguments, **options)
        raise OSError(number, os.strerror(number), path)

    with patch.object(os, call, fail):
        yield


def assert_nothing_lost(write: Callable[[], object], paths: Sequence[Path], sizes: Sequence[int] = SIZES) -> int:
    """Let the disk be full at each size, and the flush and the rename of each file fail; return how often it failed.

    After each fault the writer must have raised `WriteError` that names the file, no file may be half written (each has
    its content of before or its complete new one), no temporary may be left, and the next call must succeed.

    Args:
        write: Writes all of ``paths``, the same bytes each time.
        paths: Files; they must exist with any other content that stands for an earlier one, or be absent.
        sizes: Bytes after which the disk is full.
    """
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    write()
    whole = {path: path.read_bytes() for path in paths}
    faults = [write_fails_at(size) for size in sizes if size < max(map(len, whole.values()))]
    faults += [call_fails("fsync", path.parent.name, errno.ENOSPC, after) for after, path in enumerate(paths)]
    faults += [call_fails("replace", path.name, errno.EIO) for path in paths]
    faults += [call_fails("open", "", errno.EROFS)]
    for fault in faults:
        for path, content in before.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        with pytest.raises(WriteError) as error, fault:
            write()
        assert any(str(path) in str(error.value) for path in paths)
        for path in paths:
            assert (path.read_bytes() if path.exists() else None) in (before[path], whole[path])
            assert not list(path.parent.glob(".*.tmp"))
        write()
        assert {path: path.read_bytes() for path in paths} == whole
    return len(faults)
