"""What a command line does not take, said in one line with the nearest that it does."""

from __future__ import annotations

import argparse
import re
import reprlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from tame.cli.values import Listed, UnreadableValueError, expected

_KEY = re.compile(r'Parser key "(?P<option>[^"]+)"(?: element \d+)?:\s*(?P<rest>.*)', re.DOTALL)
_VALUE = re.compile(r"\n\s*Given value: (?P<given>.*)|Got value: (?P<got>[^\n]*)", re.DOTALL)
_DIGITS = re.compile(r"Exceeds the limit .* value has (?P<count>\d+) digits")
_UNKNOWN = "unrecognized arguments: "
_NO_VALUE = "ignored explicit argument "


def problem(
    message: str,
    error: Exception | None,
    kinds: Mapping[str, Any],
    known: Iterable[str],
    positional: str | None = None,
) -> str:
    r"""Return what is wrong, as a sentence that names the option.

    Args:
        message: Of jsonargparse, several lines long.
        error: What it was raised for.
        kinds: Type of each option by name.
        known: All options as they are written.
        positional: Option that is given by its value alone.

    Example:
        >>> problem("unrecognized arguments: --batch-sise 31", None, {}, ["--batch-size"])
        'unknown option --batch-sise; did you mean --batch-size?'
        >>> problem('Parser key "epochs":\n  Expected a <class>. Got value: many', None, {"epochs": int}, [])
        "expected --epochs as a whole number, got 'many'"
    """
    if message.lower().startswith(_UNKNOWN):
        return _unknown(message[len(_UNKNOWN) :], list(known), positional, kinds)
    if isinstance(error, argparse.ArgumentError) and error.argument_name:
        option = error.argument_name.partition("/")[0]
        if isinstance(error.__context__, UnreadableValueError):
            return f"expected {option} {error.message}"
        if error.message.startswith(_NO_VALUE):
            return f"{option} takes no value, got {error.message.removeprefix(_NO_VALUE)}"
        return error.message.replace("expected one argument", f"expected a value after {option}")
    if (found := _KEY.match(message)) and found["option"] in kinds:
        option, kind = written_option(found["option"]), kinds[found["option"]]
        if digits := _DIGITS.search(found["rest"]):
            return f"expected {option} {expected(kind)}, got one of {digits['count']} digits"
        if values := list(_VALUE.finditer(found["rest"])):  # the last is as the user wrote it
            value = _one_line(values[-1]["given"] or values[-1]["got"] or "")
            return f"expected {option} {expected(kind)}, got {reprlib.repr(value) if len(value) > 200 else repr(value)}"
        return f"expected {option} {_one_line(found['rest'])}"
    return _one_line(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question for the nearest known name, empty where none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _unknown(rest: str, known: list[str], positional: str | None, kinds: Mapping[str, Any]) -> str:
    """Return what is wrong with arguments that no option takes."""
    first = next(iter(rest.split()), "").partition("=")[0]
    if first.startswith("-"):
        spelled = [text for text in known if "_" in first or "_" not in text]  # as the user spells them
        return f"unknown option {first}{nearest(first, spelled)}"
    if positional is None:
        return f"unexpected argument {rest!r}: every value needs its option"
    if isinstance(kinds[positional], Listed):
        return f"unexpected argument {rest!r}: name all {positional.upper()} together, before or after the options"
    return f"unexpected argument {rest!r}: expected one {positional.upper()}"


def written_option(option: str) -> str:
    """Return an option as the help shows it."""
    return f"--{option.replace('_', '-')}" if "." not in option else f"--{option}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
