"""Which versions made a result."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and what its numbers rest on.

    Example:
        >>> sorted(versions())
        ['lightning', 'python', 'tame', 'torch', 'torchvision']
    """
    from tame import __version__

    packages = {name: version(name) for name in ("torch", "torchvision", "lightning")}
    return {"python": platform.python_version(), "tame": __version__} | packages
