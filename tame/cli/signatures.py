"""The options of a function: types and defaults from its signature, help from its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

import docstring_parser

from tame.cli.values import written

REQUIRED = inspect.Parameter.empty
"""Default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Name of the parameter; of a method's argument, ``method.name``.
        kind: Its type as a command line writes it, see `tame.cli.values.written`.
        default: Its default, `REQUIRED` without one.
        help: What the docstring says of it.
    """

    name: str
    kind: Any
    default: Any
    help: str = ""


def options_of(
    function: Callable[..., Any], without: Collection[str] = (), repeatable: Collection[str] = ()
) -> list[Option]:
    """Return the options that stand for the parameters of a function.

    Args:
        function: Its signature and docstring describe them.
        without: Parameters that are no options.
        repeatable: Lists of which each use of the option gives one item.

    Raises:
        TypeError: For a parameter that no command line can write; a mistake in this program.
    """
    texts = argument_help(function)
    parameters = {name: one for name, one in _parameters(function).items() if name not in without}
    hints = resolved_hints(function, parameters)
    options = []
    for name, parameter in parameters.items():
        kind = written(hints[name], name in repeatable)
        if kind is None:
            raise TypeError(f"{function.__name__}: no command line can write {name}: {hints[name]}")
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        options.append(Option(name, kind, default, texts.get(name, "")))
    return options


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter of this name."""
    return name in _parameters(function)


def resolved_hints(function: Callable[..., Any], names: Collection[str]) -> dict[str, Any]:
    """Return the annotations of these parameters as types; others may name what is not imported."""
    home: Any = function.__init__ if inspect.isclass(function) else inspect.unwrap(function)
    annotations = {name: home.__annotations__[name] for name in names}
    return get_type_hints(SimpleNamespace(__annotations__=annotations), home.__globals__)


def argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring of a function says of each parameter, without markup, one line each."""
    described = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE).params
    return {one.arg_name: _plain(one.description or "") for one in described}


def first_sentence(function: Callable[..., Any]) -> str:
    """Return the first sentence of a function's docstring."""
    text = _plain(inspect.getdoc(function) or "")
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = inspect.signature(function).parameters.values()
    return {one.name: one for one in found if one.kind not in variadic}


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())
