"""Options for the arguments of explanation methods: ``--rise.masks 500``, typed by the methods' own signatures."""

from __future__ import annotations

from typing import Any

from tame.cli.signatures import REQUIRED, Option, resolved_hints
from tame.cli.values import written
from tame.explainers import EXPLAINERS

_PLAIN_OPTIONS = ("checkpoint",)
"""Arguments that are options of their own, shared by all methods that take them."""


def method_options() -> list[Option]:
    """Return an option ``METHOD.ARGUMENT`` for every argument that a command line can write.

    Example:
        >>> next(option for option in method_options() if option.name == "rise.masks").default
        8000
    """
    options = []
    for name in EXPLAINERS:
        method = EXPLAINERS.get(name)
        parameters = {key: one for key, one in method.arguments.items() if key not in _PLAIN_OPTIONS}
        hints = resolved_hints(method.build, parameters) if parameters else {}
        for key, parameter in parameters.items():
            if (kind := written(hints[key])) is not None:
                options.append(Option(f"{name}.{key}", kind, parameter.default))
    return options


def summary_of(options: list[Option]) -> list[str]:
    """Return lines such as ``gradcam, layercam: layer``: methods that take the same arguments share one.

    Example:
        >>> summary_of([option for option in method_options() if option.name.startswith(("gradcam", "layercam"))])
        ['gradcam, gradcam++, layercam: layer']
    """
    by_method: dict[str, list[str]] = {}
    for option in options:
        method, _, argument = option.name.partition(".")
        by_method.setdefault(method, []).append(_with_default(argument, option.default))
    together: dict[tuple[str, ...], list[str]] = {}
    for method, arguments in by_method.items():
        together.setdefault(tuple(arguments), []).append(method)
    return [f"{', '.join(methods)}: {', '.join(arguments)}" for arguments, methods in together.items()]


def _with_default(name: str, default: Any) -> str:
    return name if default is None or default is REQUIRED else f"{name}={default}"
