"""The help of a command: what each option does, its default, and what the presets set."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from typing import Any

from tame.presets import PRESETS

PRESET_FIELDS = {
    "batch_size": "batch_size",
    "epochs": "epochs",
    "init": "init",
    "layers": "layers",
    "loss": "loss",
    "lr": "max_lr",
    "masking": "masking",
    "trainable": "trainable",
}
"""Options whose default is the preset's, and the field of the preset that holds it."""

_ON_TOKENS = {"lr": "token_max_lr"}
"""Fields with another value for classifiers that work on tokens."""

_DEFAULT = re.compile(r"[;,.]? *[Dd]efault: (?P<default>.+?)\.?$")


class HelpFormatter(RawDescriptionHelpFormatter):
    """Shows one spelling per option, and after its text the default that holds for this call.

    Arguments of methods (``--rise.masks``) are not shown one by one: their group's description lists them.
    """

    def add_argument(self, action: Action) -> None:
        """Add an option, unless it is an argument of a method."""
        if "." not in action.dest:
            super().add_argument(action)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        short = [text for text in action.option_strings if not text.startswith("--")]
        long = next(text for text in action.option_strings if text.startswith("--"))
        value = "" if action.nargs == 0 else f" {action.metavar}"
        return ", ".join([*short, long]) + value

    def _get_help_string(self, action: Action) -> str:
        return described(action.dest, action.help or "", action.default, action.nargs == 0).replace("%", "%%")


def described(option: str, text: str, default: Any, is_flag: bool = False) -> str:
    """Return what the help says of an option: its text with its default in brackets at the end.

    Args:
        option: Name of the option.
        text: What the docstring says; "default: ..." at its end says what None means.
        default: Its default in this call, which a recipe or a configuration file may have set.
        is_flag: Whether it needs no value.

    Example:
        >>> described("epochs", "Passes over the images; default: the preset's.", None)
        "Passes over the images. (default: the preset's; tame: 2, paper: 8, released: 8)"
        >>> described("epochs", "Passes over the images; default: the preset's.", 5)
        'Passes over the images. (default: 5)'
    """
    found = _DEFAULT.search(text)
    body = (text[: found.start()] + "." if found else text).strip()
    if is_flag:
        return body
    if default in (None, [], SUPPRESS):
        return f"{body} (default: {found['default']}{_of_presets(option, found['default'])})" if found else body
    shown = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
    return f"{body} (default: {shown.lower() if isinstance(default, bool) else shown})"


def with_note(text: str, note: str) -> str:
    """Return the text of an option with a note before what it says of the default.

    Example:
        >>> with_note("Classes to explain; default: the best.", "can be repeated")
        'Classes to explain; can be repeated; default: the best.'
    """
    found = _DEFAULT.search(text)
    body = text[: found.start()] if found else text.rstrip(".")
    return f"{body}; {note}; default: {found['default']}." if found else f"{body}; {note}."


def _of_presets(option: str, default: str) -> str:
    """Return the presets' values where they are the default: ``; tame: 2, paper: 8, released: 8``."""
    if not default.startswith("the preset's") or option not in PRESET_FIELDS:
        return ""
    names = sorted(PRESETS.names(), key=lambda name: (name != "tame", name))
    return "; " + ", ".join(f"{name}: {_preset_value(name, option)}" for name in names)


def _preset_value(preset: str, option: str) -> str:
    values = PRESETS.get(preset)
    value = getattr(values, PRESET_FIELDS[option])
    tokens = getattr(values, _ON_TOKENS[option]) if option in _ON_TOKENS else value
    shown = "the backbone's" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return shown if tokens == value else f"{shown} (tokens: {tokens:g})"
