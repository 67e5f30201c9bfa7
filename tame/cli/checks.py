"""What is refused before a command loads anything: numbers out of range, and places that cannot be written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tame.cli.problems import written_option
from tame.utils.checks import InputError
from tame.utils.limits import check_numbers

_WRITTEN = ("out", "report", "curves")


def check_options(
    values: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], files: Collection[str] = ()
) -> None:
    """Check the values of options.

    Args:
        values: By the names of the options.
        methods: Arguments of methods by method.
        files: Options that name a file to write; the others name a folder.

    Raises:
        InputError: For a number out of its limits, a precision that the device cannot compute in, or a file where a
            folder is expected.
        OSError: For a folder that cannot be written to.
    """
    check_numbers(written_option, **values)
    for method, arguments in methods.items():
        check_numbers(f"--{method}.".__add__, **arguments)
    for option in _WRITTEN:
        if values.get(option) is not None:
            check_writable(option, Path(values[option]), folder=option not in files)
    if values.get("precision") == "16-mixed" and _computes_on_the_cpu(values.get("device")):
        from tame.utils.devices import resolve_precision

        resolve_precision(values["precision"], "cpu")


def check_writable(option: str, path: Path, folder: bool) -> None:
    """Check that a folder or a file can be written, as far as this can be told without writing.

    Args:
        option: Name of the option, for error messages.
        path: The folder or file.
        folder: Whether it is a folder.

    Raises:
        InputError: For a file in the place of a folder or the reverse, or a name that no file can have.
        OSError: For a folder that is read-only.
    """
    if "\0" in str(path):
        raise InputError(f"expected the name of a file as {written_option(option)}, got {str(path)!r}")
    if not folder and path.is_dir():
        raise InputError(f"expected a file as {written_option(option)}, got the folder {path}")
    above = [path, *path.parents] if folder else list(path.parents)
    nearest = next(each for each in above if os.path.lexists(each))
    if not nearest.is_dir():
        raise InputError(f"expected a folder as {written_option(option)}, got {path}: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it cannot be written to", str(nearest))


def _computes_on_the_cpu(device: str | None) -> bool:
    import torch

    return device == "cpu" or (device in (None, "auto") and not torch.cuda.is_available())
