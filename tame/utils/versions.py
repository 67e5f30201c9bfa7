"""Versions of the software that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

VERSION = "0.1.0"
"""Of this package."""


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that its results depend on.

    Example:
        >>> sorted(versions())
        ['lightning', 'python', 'tame', 'torch', 'torchvision']
    """
    packages = {name: version(name) for name in ("torch", "torchvision", "lightning")}
    return {"python": platform.python_version(), "tame": VERSION} | packages
