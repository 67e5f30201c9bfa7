"""Find an external library, its methods by name, and the arguments that each takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from tame.utils.checks import InputError


def import_library(module: str, install: str) -> Any:
    """Import an optional library.

    Args:
        module: Its module.
        install: What ``pip install`` installs it.

    Raises:
        InputError: If it is not installed.

    Example:
        >>> import_library("no_such_library", "t-tame[captum]")
        Traceback (most recent call last):
        tame.utils.checks.InputError: the library no_such_library is not installed: pip install "t-tame[captum]"
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (package, module):  # it is installed, but a library that it needs is not
            raise
        raise InputError(f'the library {package} is not installed: pip install "{install}"') from error


def find_method(library: str, methods: Iterable[str], name: str) -> str:
    """Return the library's own spelling of a method's name; case, ``-`` and ``_`` do not matter.

    Args:
        library: Name of the library, for the message.
        methods: Names of its methods.
        name: The name to find.

    Raises:
        InputError: For an unknown name, with the nearest and all known ones.

    Example:
        >>> find_method("grad-cam", ["GradCAM", "KPCA_CAM"], "kpca-cam")
        'KPCA_CAM'
    """
    known = {_plain(method): method for method in methods}
    if found := known.get(_plain(name)):
        return found
    near = get_close_matches(_plain(name), known, n=1)
    hint = f"; did you mean {known[near[0]]}?" if near else "."
    raise InputError(f"{library} has no method {name!r}{hint} Its methods: {', '.join(sorted(known.values()))}")


def keyword_arguments(function: Callable[..., Any], ours: Iterable[str] = ()) -> dict[str, inspect.Parameter]:
    """Return the arguments of a function by name.

    Args:
        function: A function or a class; ``*args`` and ``**kwargs`` are left out.
        ours: Arguments that are left out because we give them.
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind not in variable and name not in {"self", *ours}
    }


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
