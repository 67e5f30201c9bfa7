"""From a command line to the arguments of a command's functions."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import Any, NoReturn

import jsonargparse
import yaml  # type: ignore[import-untyped] # its types are a package of their own

from tame.cli.checks import check_options
from tame.cli.command import Arguments, Command
from tame.cli.config import config_files, read_config
from tame.cli.groups import GROUPS, METHOD_ARGUMENTS, group_of, place_of
from tame.cli.help import HelpFormatter, with_note
from tame.cli.method_arguments import method_options, summary_of
from tame.cli.problems import nearest, problem, written_option
from tame.cli.signatures import REQUIRED, Option, first_sentence
from tame.cli.values import Listed, expected, flag, metavar
from tame.utils.checks import InputError

_ABOUT_THE_CALL = ("config", "print_config", "verbose", "quiet")
"""Options that say how a command runs, not what it does."""


def parse(command: Command, name: str, line: Sequence[str], defaults: Mapping[str, Any]) -> Arguments | None:
    """Read the command line of a command.

    Args:
        command: The command.
        name: Its name.
        line: What follows it.
        defaults: Values that replace the command's own defaults, as a recipe has them.

    Returns:
        The arguments; None if they were only to be printed.

    Raises:
        InputError: In one line, for what the command does not take.
        OSError: For a folder that cannot be written to.
        SystemExit: After ``--help``.
    """
    parser = build_parser(command, name)
    parser.replace_defaults(defaults)
    files, rest = config_files(line)
    for file in files:
        try:
            content = read_config(file)
            parser.replace_defaults({key: content[key] for key in content if key not in command.ignored})
        except InputError as error:
            known = str(error) if str(file) in str(error) else f"{file}: {error}"
            raise InputError(known) from error
    values = vars(parser.parse_args(rest).as_flat())
    for option in parser.options.values():
        if "." not in option.name:
            values.setdefault(option.name, _absent(option))
    about = {option: values.pop(option) for option in _ABOUT_THE_CALL}
    if about["print_config"]:
        print(yaml.safe_dump(_nested(values), sort_keys=False, allow_unicode=True), end="")
        return None
    methods = _method_arguments(values, parser.replaced)
    plain = {option: value for option, value in values.items() if "." not in option}
    check_options(plain, methods, command.files)
    return Arguments(command, plain, methods, verbose=about["verbose"], quiet=about["quiet"])


def build_parser(command: Command, name: str) -> Parser:
    """Return the parser of a command, made of the signatures of its functions."""
    options = sorted(command.options(), key=lambda option: place_of(name, option.name))
    parser = Parser(
        prog=f"tame {name}",
        usage=" ".join([f"tame {name}", *_positional_usage(options, command), "[OPTIONS]"]),
        description=first_sentence(command.parts[0].function),
        epilog="\n".join(["examples:", *(f"  {line}" for line in command.examples)]),
        formatter_class=HelpFormatter,
        add_help=False,
        allow_abbrev=False,
        print_config=None,  # its own would only print what follows a configuration file
    )
    for title in GROUPS:
        if title == "General" and command.takes_method_arguments:
            parser.add_method_arguments_group(method_options())
        shown = [option for option in options if group_of(name, option.name) == title]
        if shown or title == "General":
            group = parser.add_argument_group(title)
            for option in shown:
                parser.add_option(group, option, command)
            if title == "General":
                parser.add_general(group)
    return parser


def _absent(option: Option) -> Any:
    """Return what stands for an option that is given by its value alone, where it is not given."""
    if option.default is not REQUIRED:
        return option.default
    return [] if isinstance(option.kind, Listed) else None


def _method_arguments(values: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of methods by method.

    Those that a recipe or configuration file sets for a method that is not asked for are left out.
    """
    named = values.get("methods") or values.get("method") or []
    asked = {str(one).partition("@")[0] for one in ([named] if isinstance(named, str) else named)}
    methods: dict[str, dict[str, Any]] = {}
    for option, value in values.items():
        method, dot, argument = option.partition(".")
        if dot and (method in asked or option not in replaced or replaced[option] != value):
            methods.setdefault(method, {})[argument] = value
    return methods


def _positional_usage(options: Sequence[Option], command: Command) -> list[str]:
    """Return how the option that is given by its value alone stands in the usage."""
    found = [option for option in options if option.name == command.positional]
    shown = [f"{one.name.upper()} ..." if isinstance(one.kind, Listed) else one.name.upper() for one in found]
    return [f"[{text}]" if one.default is not REQUIRED else text for one, text in zip(found, shown, strict=True)]


class Parser(jsonargparse.ArgumentParser):
    """A parser that takes options from signatures, and says in one line what it does not take."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.options: dict[str, Option] = {}
        self.positional: str | None = None
        self.replaced: dict[str, Any] = {}  # defaults of a recipe or configuration file
        super().__init__(*args, **settings)

    def add_option(self, group: Any, option: Option, command: Command) -> None:
        """Add an option of a command to a group of its help."""
        self.options[option.name] = option
        if option.name == command.positional:
            self.positional = option.name
            many = isinstance(option.kind, Listed)
            group.add_argument(
                option.name, nargs="*" if many else "?", type=str, default=argparse.SUPPRESS, help=option.help
            )
            return
        if option.default is False:
            group.add_argument(*_spellings(option.name), action="store_true", help=option.help).type = flag
            return
        repeatable = option.name in command.repeatable
        group.add_argument(
            *_spellings(option.name),
            **({"action": Repeated} if repeatable else {}),
            type=option.kind,
            default=argparse.SUPPRESS if option.default is REQUIRED else option.default,
            metavar=metavar(option.name, option.kind),
            help=with_note(option.help, "can be repeated") if repeatable else option.help,
        )

    def add_method_arguments_group(self, options: Sequence[Option]) -> None:
        """Add the arguments of explanation methods, which the help lists by method; only those given are passed on."""
        intro = "--METHOD.ARGUMENT VALUE, such as --rise.masks 500; see `tame list methods`. They are:"
        lines = [fill(line, 96, subsequent_indent="    ") for line in summary_of(list(options))]
        group = self.add_argument_group(METHOD_ARGUMENTS, "\n".join([intro, *lines]))
        for option in options:
            self.options[option.name] = option
            group.add_argument(
                *_spellings(option.name),
                type=option.kind,
                default=argparse.SUPPRESS,
                metavar=metavar(option.name, option.kind),
            )

    def add_general(self, group: Any) -> None:
        """Add what every command takes."""
        files = "YAML or JSON file of options; the command line is stronger. Training saves its own as config.json."
        group.add_argument("--config", action="append", metavar="FILE", help=files)
        about = {
            ("--print-config", "--print_config"): "Print these options as a configuration file, and stop.",
            ("-v", "--verbose"): "Show what is done in detail.",
            ("-q", "--quiet"): "Show warnings and results only.",
        }
        for spellings, text in about.items():
            group.add_argument(*spellings, action="store_true", help=text)
        group.add_argument("-h", "--help", action="help", help="Show this help, and stop.")

    def replace_defaults(self, values: Mapping[str, Any]) -> None:
        """Set defaults by the names of options, nested for arguments of methods: ``{"rise": {"masks": 500}}``.

        Raises:
            InputError: For an unknown name, or a value of a wrong type.
        """
        for key, value in _flat(values, self.options).items():
            name = key if key in self.options else key.replace("-", "_")
            if name not in self.options:
                raise InputError(f"unknown option {key!r}{nearest(key, self.options)}")
            self.replaced[name] = self._checked(self.options[name], value)
            self.set_defaults({name: self.replaced[name]})

    def _checked(self, option: Option, value: Any) -> Any:
        """Return a value of a configuration file or recipe as the option's type."""
        if value is None and option.default is not None:
            raise InputError(f"expected {written_option(option.name)} {expected(option.kind)}, got nothing")
        if value is None:
            return None
        if option.name == self.positional and isinstance(option.kind, Listed) and not isinstance(value, list):
            value = [value]
        return self.parse_object({option.name: value}, defaults=False)[option.name]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the parser refuses, in one line.

        Raises:
            InputError: Always.
        """
        kinds = {name: option.kind for name, option in self.options.items()}
        raise InputError(problem(message, ex, kinds, self._option_string_actions, self.positional)) from ex


class Repeated(argparse.Action):
    """An option that may be given several times; its first use replaces the default."""

    used = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add an item to the option's list."""
        earlier = getattr(namespace, self.dest) if self.used else []
        self.used = True
        setattr(namespace, self.dest, [*earlier, *values])


def _spellings(option: str) -> list[str]:
    """Return how an option is written: with dashes, as the help shows it, and with its own underscores."""
    return list(dict.fromkeys([f"--{option.replace('_', '-')}", f"--{option}"]))


def _flat(values: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """Return nested values by dotted names; the value of an option is not nested, whatever it is."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_method = any(name.startswith(f"{key}.") for name in options)
        nested = isinstance(value, Mapping) and key.replace("-", "_") not in options and (value or is_method)
        flat |= {f"{key}.{name}": one for name, one in value.items()} if nested else {key: value}
    return flat


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted names as nested ones, those of methods last."""
    nested = {key: value for key, value in values.items() if "." not in key}
    for key, value in values.items():
        method, dot, argument = key.partition(".")
        if dot:
            nested.setdefault(method, {})[argument] = value
    return nested
