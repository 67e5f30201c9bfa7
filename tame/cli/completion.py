"""Completion of commands and options by the shell."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from tame.cli.commands import ALIASES, COMMANDS, load_command
from tame.cli.parsing import build_parser
from tame.cli.values import Listed, literals
from tame.utils.checks import InputError

_PATHS = ("images", "runs", "file", "checkpoint", "data", "lists", "out", "config", "maps", "report", "curves")


def completion_script(*shells: str) -> str:
    """Return the script that completes `tame` in a shell.

    Args:
        shells: bash, zsh or tcsh; one of them.

    Raises:
        InputError: For another shell, or without the package shtab.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError("shell completion needs the package shtab: pip install shtab") from error
    if len(shells) != 1 or shells[0] not in shtab.SUPPORTED_SHELLS:
        raise InputError(f"expected one of {', '.join(shtab.SUPPORTED_SHELLS)}, got {' '.join(shells) or 'none'}")
    top = ArgumentParser(prog="tame", description="Trainable visual explanations of image classifiers.")
    top.add_argument("--version", action="store_true", help="Print the version.")
    commands = top.add_subcommands()
    for name, help_line in [*((name, line) for name, (_, line) in COMMANDS.items()), *ALIASES.items()]:
        parser = build_parser(load_command(name), name)
        for action in parser._actions:
            action.option_strings = _shown(action.option_strings)
            option = parser.options.get(action.dest)
            if option and not isinstance(option.kind, Listed) and (words := literals(option.kind)):
                action.choices = words
            elif action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined] # shtab looks for it
        commands.add_subcommand(name, parser, help=help_line)
    script: str = shtab.complete(top, shells[0])
    return script


def _shown(spellings: Sequence[str]) -> list[str]:
    """Return the spellings of an option without the one that only has underscores for dashes."""
    return [text for text in spellings if "_" not in text or text.replace("_", "-") not in spellings]
