"""The command `tame`: finds the asked command, runs it, and says in one line what could not be done."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tame.cli.commands import ALIASES, COMMANDS, load_command
from tame.utils.checks import InputError, shown
from tame.utils.memory import keep_memory
from tame.utils.signals import Terminated, terminable
from tame.utils.versions import VERSION

if TYPE_CHECKING:
    from tame.cli.command import Command

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_ENDED = {130: "interrupted", 143: "terminated"}
_COMPLETION = ("--print_shtab", "--print-shtab")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows ``tame``; default: of this process.

    Returns:
        The exit status: 0 well; 1 some files failed, or could not be written; 2 unusable input; 130 interrupted; 141
        nobody reads the output; 143 terminated.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process
        if isinstance(stream, io.TextIOWrapper):  # names may have characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    line = list(sys.argv[1:] if arguments is None else arguments)
    if line and (line[0] in COMMANDS or line[0] in ALIASES):
        return run_command(line[0], line[1:])
    speaker = f"tame {line[0]}" if line and line[0] in _COMPLETION else "tame"
    return _outcome(speaker, lambda: _without_command(line))


def _without_command(line: list[str]) -> int:
    name = line[0] if line else "--help"
    if name in ("-h", "--help", "help"):
        print(_overview())
    elif name == "--version":
        print(f"tame {VERSION}")
    elif name in _COMPLETION:
        from tame.cli.completion import completion_script

        print(completion_script(*line[1:]))
    else:
        raise InputError(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
    return 0


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
    kept: list[str] = []

    def call() -> int:
        _log(logging.INFO)
        keep_memory()
        command = load_command(name)
        kept.append(command.kept)
        return _run(command, name, arguments, defaults or {})

    return _outcome(f"tame {name}", call, kept)


def _outcome(speaker: str, call: Callable[[], int], kept: Sequence[str] = ()) -> int:
    """Return the exit status of a call, and say in one line what ended it.

    Args:
        speaker: Start of that line.
        call: Returns the exit status if nothing ends it.
        kept: What is left where it was interrupted, or could not write.
    """
    try:
        with terminable():
            status = call()
            sys.stdout.flush()  # an error of the last lines is still told
        return status
    except InputError as error:
        status, problem, kept = 2, str(error), ()
    except KeyboardInterrupt as interruption:
        status, problem = 130, str(interruption)
    except Terminated as termination:
        status, problem = 143, termination.message
    except BrokenPipeError:
        _forget_output()
        return 141
    except (OSError, MemoryError, RuntimeError) as error:
        found = _system_error(error)
        if found is None:
            raise
        status, problem = 1, found
    if problem and status in _ENDED:
        kept = ()  # it says itself how to go on
    try:
        sys.stdout.flush()  # the end of a progress bar, for instance
    except OSError:
        _forget_output()
    print(f"{speaker}: {shown('; '.join(filter(None, [problem or _ENDED[status], *kept])))}", file=sys.stderr)
    return status


def _forget_output() -> None:
    """Write what is left of the output nowhere: Python flushes it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: Command, name: str, arguments: Sequence[str], defaults: Mapping[str, Any]) -> int:
    from tame.cli.parsing import parse

    parsed = parse(command, name, arguments, defaults)
    if parsed is None:
        return 0
    _log(logging.WARNING if parsed.quiet else logging.INFO)
    logging.getLogger("tame").setLevel(logging.DEBUG if parsed.verbose else logging.NOTSET)
    return command.run(parsed)


def _system_error(error: Exception) -> str | None:
    """Return in words what the system refused: a file, or memory; None for another error, a mistake in this program."""
    if isinstance(error, OSError) and type(error).__str__ is OSError.__str__ and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, OSError):
        return str(error) or type(error).__name__
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return f"not enough memory ({' '.join(str(error).split())[:200]}); try a smaller batch size or input size"
    return None


def _log(level: int) -> None:
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


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
