"""How a value of a type is written on the command line and in a configuration file."""

from __future__ import annotations

import argparse
import reprlib
import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_SCALARS = (str, int, float, bool)


class UnreadableValueError(argparse.ArgumentTypeError, ValueError):
    """A value of a wrong type; the message is the end of a sentence: what was expected, and what came."""


@dataclass(frozen=True)
class Listed:
    """Reads a list: ``a,b`` on the command line, a list in a configuration file.

    Args:
        item: Type of its items: str, int, float, or a literal.
        alone: Whether a single value stays as it is, so that it can be told from a list of one.
        split: Whether a text is split at commas; otherwise it is one item.
    """

    item: Any
    alone: bool = False
    split: bool = True

    def __call__(self, value: Any) -> Any:
        """Return the list that ``value`` stands for; what is a list already is checked.

        Raises:
            UnreadableValueError: For no items, or an item of another type.

        Example:
            >>> Listed(float)("0.5, 0.25"), Listed(str, alone=True)("paper"), Listed(str, split=False)("tabby, cat")
            ([0.5, 0.25], 'paper', ['tabby, cat'])
        """
        if self.alone and self._is_alone(value):
            return value
        if isinstance(value, str) and self.split:
            parts: list[Any] = [part.strip() for part in value.split(",") if part.strip()]
        else:
            parts = list(value) if isinstance(value, list | tuple) else [value]
        try:
            items = [self._read(part) for part in parts]
        except (TypeError, ValueError):
            items = []
        if not items and (parts or isinstance(value, str)):
            raise UnreadableValueError(f"{expected(self)}, got {reprlib.repr(_shown(value))}")
        return items

    def _is_alone(self, value: Any) -> bool:
        if isinstance(value, str):
            return "," not in value or Path(value).exists()
        return value is None or (isinstance(value, int) and not isinstance(value, bool) and self.item is int)

    def _read(self, part: Any) -> Any:
        if get_origin(self.item) is Literal:
            if part not in get_args(self.item):
                raise ValueError
            return part
        if isinstance(part, list | tuple | dict | bool | None) or (self.item is int and isinstance(part, float)):
            raise ValueError
        return self.item(part)


def written(hint: Any, repeatable: bool = False) -> Any:
    """Return the type of a parameter as a command line can write it; None if it cannot be written at all.

    Paths are text, sequences are lists separated by commas, and members of a union that only Python code can give
    (networks, functions, mappings) are left out.

    Args:
        hint: Annotation of the parameter.
        repeatable: A list has one item per use of the option.

    Example:
        >>> written(Path), written(Sequence[float]), written(dict)
        (<class 'str'>, Listed(item=<class 'float'>, alone=False, split=True), None)
    """
    members = _members(hint)
    plain = list(dict.fromkeys(str if one is Path else one for one in members if _is_plain(one)))
    lists = [one for one in members if get_origin(one) is not None and _is_sequence(get_origin(one))]
    if lists:
        item = next((found for one in lists if (found := _item(get_args(one)[0])) is not None), None)
        return None if item is None else Listed(item, alone=bool(plain), split=not repeatable)
    if not plain:
        return None
    return reduce(or_, [*plain, None] if types.NoneType in members else plain)


def expected(kind: Any) -> str:
    """Return what is expected of a value, to follow the name of the option.

    Example:
        >>> expected(int | None), expected(Literal["cnn", "vit"]), expected(Listed(Literal["minmax", "rank"]))
        ('as a whole number', 'cnn or vit', 'of minmax, rank, separated by commas')
    """
    if isinstance(kind, Listed):
        literal = get_args(kind.item) if get_origin(kind.item) is Literal else ()
        words = {int: "whole numbers", float: "numbers", str: "names"}
        return f"of {', '.join(literal)}, separated by commas" if literal else f"of {words[kind.item]} between commas"
    phrases = [_expected_alone(one) for one in _members(kind) if one is not types.NoneType]
    return " or ".join(phrases)


def metavar(option: str, kind: Any) -> str:
    """Return what stands for the value of an option in the help.

    Example:
        >>> metavar("epochs", int), metavar("resume", bool), metavar("train_list", str), metavar("metrics", Listed(str))
        ('N', '{true,false}', 'LIST', 'A,B')
    """
    if isinstance(kind, Listed) and kind.split:
        return "A[,B]" if kind.alone else "A,B"
    if choices := literals(kind):
        return f"{{{','.join(choices)}}}"
    kinds = {one for one in _members(kind) if one is not types.NoneType} if not isinstance(kind, Listed) else {str}
    word = option.rpartition(".")[2].rpartition("_")[2].upper()
    return {int: "N", float: "X"}.get(kinds.pop(), word) if len(kinds) == 1 else word


def literals(kind: Any) -> list[str]:
    """Return the texts that a value is one of; empty where it can be another."""
    members = [] if isinstance(kind, Listed) else [one for one in _members(kind) if one is not types.NoneType]
    if members == [bool]:
        return ["true", "false"]
    if members and all(get_origin(one) is Literal for one in members):
        return [str(value) for one in members for value in get_args(one)]
    return []


def flag(value: Any) -> bool:
    """Read the value of an option that needs none, from a configuration file.

    Raises:
        UnreadableValueError: For anything but true and false.
    """
    if not isinstance(value, bool):
        raise UnreadableValueError(f"{expected(bool)}, got {value!r}")
    return value


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, nested ones too; of any other type, itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for one in get_args(hint) for inner in _members(one))
    return (hint,)


def _is_plain(hint: Any) -> bool:
    return hint in _SCALARS or hint is Path or get_origin(hint) is Literal


def _is_sequence(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _item(hint: Any) -> Any:
    """Return the type of a list's items: the first that can be written, text before all others."""
    members = [str if one is Path else one for one in _members(hint) if _is_plain(one)]
    return str if str in members else next(iter(members), None)


def _expected_alone(hint: Any) -> str:
    if get_origin(hint) is Literal:
        *others, last = map(str, get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    return {int: "as a whole number", float: "as a number", bool: "true or false"}.get(hint, "as text")


def _shown(value: Any) -> Any:
    """Return a value as the user wrote it, in a configuration file as a list."""
    return list(value) if isinstance(value, tuple) else value
