"""From a command line to a command's options."""

from __future__ import annotations

import json
import re
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser, Namespace


@dataclass(frozen=True)
class Command:
    """One command: its options, what runs it, and how its special arguments are read."""

    help: str
    options: type
    run: Callable[[Any], int]
    positional: str = ""
    repeatable: str = ""
    hidden: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # that need no value


def parse(command: Command, name: str, arguments: Sequence[str], defaults: Any) -> Any:
    """Return the options of a command from its command line; ``defaults`` replace the command's own."""
    parser = ArgumentParser(prog=f"tame {name}", description=command.help)
    parser.add_argument(
        "--config", action="config", help="YAML or JSON file of options; training saves its own as config.json."
    )
    special = {command.positional, command.repeatable, *command.hidden} - {""}
    words = _argument_help(command.options)
    if command.positional:
        parser.add_argument(command.positional, nargs="*", type=str, default=SUPPRESS, help=words[command.positional])
    if command.repeatable:
        option = f"--{command.repeatable}"
        parser.add_argument(option, type=list[str], default=[], help=words[command.repeatable] + " Can be repeated.")
        values, arguments = _take(arguments, option)
        arguments += [f"{option}={json.dumps(values)}"] if values else []
    flags = {f"--{flag}" for flag in command.flags}
    arguments = [f"{text}=true" if text in flags else text for text in arguments]
    parser.add_class_arguments(command.options, skip=special, as_group=False)
    if defaults is not None:
        names = [field.name for field in fields(defaults) if field.name not in command.hidden]
        parser.set_defaults({name: getattr(defaults, name) for name in names})
    configs, arguments = _take(arguments, "--config")  # read first: what the command line says is stronger
    parsed: Namespace = parser.parse_args([*(f"--config={file}" for file in configs), *_with_underscores(arguments)])
    return command.options(
        **{field.name: parsed[field.name] for field in fields(command.options) if field.name in parsed}
    )


def _argument_help(options: type) -> dict[str, str]:
    """Return what the docstring says of each option."""
    return {part.arg_name: part.description or "" for part in docstring_parser.parse(options.__doc__ or "").params}


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Write ``--batch-size`` as the options' own ``--batch_size``."""
    return [re.sub(r"^--[\w-]+", lambda found: "--" + found[0][2:].replace("-", "_"), text) for text in arguments]


def _take(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Return the values of ``option`` in a command line, and the rest of it."""
    values, others = [], []
    remaining = iter(arguments)
    for text in remaining:
        if text.startswith(f"{option}="):
            values.append(text.partition("=")[2])
        elif text == option and (value := next(remaining, None)) is not None:
            values.append(value)
        else:
            others.append(text)
    return values, others
