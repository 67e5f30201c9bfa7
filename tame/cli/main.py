"""The command `tame`: finds the asked command, runs it, and says in one line what could not be done."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tame.cli.commands import ALIASES, COMMANDS, load_command
from tame.utils.checks import InputError
from tame.utils.memory import keep_memory
from tame.utils.signals import Terminated, terminable
from tame.utils.versions import VERSION

_COMPLETION = ("--print_shtab", "--print-shtab")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 well, 1 some files failed, 2 unusable input, 130 interrupted, 143 terminated.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"tame {VERSION}")
        return 0
    if name in _COMPLETION:
        return _print_completion(arguments[1:])
    if name not in COMMANDS and name not in ALIASES:
        print(f"tame: unknown command {name!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run_command(name, arguments[1:])


def run_command(name: str, arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> int:
    """Run one command.

    Args:
        name: One of `COMMANDS`.
        arguments: Its command line.
        defaults: Values by the names of options that replace the command's own defaults, as a recipe has them;
            arguments of methods are nested: ``{"rise": {"masks": 500}}``.

    Returns:
        The exit status.
    """
    from tame.cli.parsing import parse

    _log(logging.INFO)
    keep_memory()
    try:
        command = load_command(name)
        parsed = parse(command, name, arguments, defaults or {})
        if parsed is None:
            return 0
        _log(logging.WARNING if parsed.quiet else logging.INFO)
        logging.getLogger("tame").setLevel(logging.DEBUG if parsed.verbose else logging.NOTSET)
        with terminable():
            return command.run(parsed)
    except InputError as error:
        print(f"tame {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"tame {name}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        return 130
    except Terminated as termination:
        print(f"tame {name}: {termination}", file=sys.stderr)
        return 143


def _log(level: int) -> None:
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def _print_completion(arguments: list[str]) -> int:
    from tame.cli.completion import completion_script

    try:
        print(completion_script(*arguments))
    except InputError as error:
        print(f"tame {_COMPLETION[0]}: {error}", file=sys.stderr)
        return 2
    return 0


def _overview() -> str:
    lines = [f"  {name:10}{help_line}" for name, (_, help_line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tame COMMAND [OPTIONS]",
            "",
            "Trainable visual explanations of image classifiers.",
            "",
            *lines,
            "",
            "`tame COMMAND --help` lists its options with examples; `tame --version` prints the version;",
            "`tame --print_shtab bash` (zsh, tcsh) prints a script that completes commands and options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
