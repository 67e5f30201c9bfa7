"""One command: the public functions that it is made of, and the arguments that a command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tame.cli.signatures import Option, options_of, takes
from tame.utils.checks import InputError

RESUMES = "what is finished is kept, and the same command resumes"
"""What is left of a command that can be resumed, after an interruption or a full disk."""

DEFAULTS = {"num_workers": 2}
"""Defaults of the command line that are not those of the functions: two processes read images beside the main one."""

_NOT_OPTIONS = ("classifier", "arguments", "progress")
"""Parameters that the command line fills in itself: the loaded classifier, ``--rise.masks`` and so on, ``--quiet``."""


@dataclass(frozen=True)
class Part:
    """A function that a command calls, and its parameters that are no options of this command.

    Attributes:
        function: Any public function with plain arguments.
        without: Parameters that the command fills in, or leaves at their defaults.
        only: The only parameters that are options; None: all.
    """

    function: Callable[..., Any]
    without: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None

    def options(self, repeatable: tuple[str, ...]) -> list[Option]:
        """Return its options."""
        found = options_of(self.function, (*_NOT_OPTIONS, *self.without), repeatable)
        return [one for one in found if self.only is None or one.name in self.only]


@dataclass(frozen=True)
class Command:
    """A command of `tame`.

    Attributes:
        run: Calls the functions and prints what came of it; returns the exit status.
        parts: The functions, the command's own first: where two have a parameter of the same name it is one option,
            described by the first of them and given to both.
        examples: Command lines for the end of its help.
        positional: Option that is given by its value alone.
        repeatable: Options that may be given several times, one item of their list each.
        files: Options that name a file to write, not a folder.
        kept: What is left of a command that is interrupted or cannot write, and how to go on.
        ignored: Options of other commands that a configuration file may hold; they have no effect here.
    """

    run: Callable[[Arguments], int]
    parts: tuple[Part, ...]
    examples: tuple[str, ...]
    positional: str | None = None
    repeatable: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    kept: str = ""
    ignored: tuple[str, ...] = ()

    def options(self) -> list[Option]:
        """Return the options of all its functions, each once, with the command line's own defaults."""
        found: dict[str, Option] = {}
        for option in (option for part in self.parts for option in part.options(self.repeatable)):
            default = DEFAULTS.get(option.name, option.default)
            found.setdefault(option.name, Option(option.name, option.kind, default, option.help))
        return list(found.values())

    @property
    def takes_method_arguments(self) -> bool:
        """Whether it builds explanation methods, so that their own arguments are options."""
        return any(takes(part.function, "arguments") for part in self.parts)


@dataclass(frozen=True)
class Arguments:
    """What a command line says.

    Attributes:
        command: The command.
        values: Value of each option by name.
        methods: Arguments of explanation methods by method, only those that were given.
        verbose: Whether details are shown.
        quiet: Whether only warnings are shown.
    """

    command: Command
    values: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    verbose: bool = False
    quiet: bool = False

    def __getitem__(self, option: str) -> Any:
        return self.values[option]

    def of(self, *functions: Callable[..., Any]) -> dict[str, Any]:
        """Return the keyword arguments of one or several functions of the command, ready to call them with."""
        found: dict[str, Any] = {}
        for part in (part for part in self.command.parts if part.function in functions):
            found |= {option.name: self.values[option.name] for option in part.options(self.command.repeatable)}
            if takes(part.function, "arguments"):
                found["arguments"] = self.methods or None
            if takes(part.function, "progress"):
                found["progress"] = not self.quiet
        return found

    def one(self, option: str, example: str) -> Any:
        """Return the value of an option that must be given.

        Raises:
            InputError: With an example, where it is not.
        """
        if (value := self.values.get(option)) is None:
            raise InputError(f"expected {option.upper()}, for example: {example}")
        return value
