"""The commands of `tame` by name, without importing what they run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tame.cli.command import Command

COMMANDS = {
    "explain": (
        "tame.cli.explain",
        "Explain image files, by one method or several: overlays, maps and a manifest, and grids that compare methods.",
    ),
    "train": (
        "tame.cli.train",
        "Train an attention mechanism that explains a classifier; the classifier itself does not change.",
    ),
    "lr-find": ("tame.cli.lr_find", "Suggest a learning rate for a training run by a range test."),
    "evaluate": ("tame.cli.evaluate", "Evaluate an explanation method."),
    "compare": ("tame.cli.compare", "Evaluate several explanation methods on one classifier and compare them."),
    "table": ("tame.cli.table", "Compare finished evaluations of the same images in one table."),
    "inspect": ("tame.cli.inspect", "List the layers of a classifier, and propose feature layers."),
    "convert": ("tame.cli.convert", "Convert a checkpoint of the authors' programs."),
    "doctor": (
        "tame.cli.doctor",
        "Check this machine, images, lists and the folders of runs, and say what to do about problems.",
    ),
    "list": ("tame.cli.list", "List backbones, methods, metrics, presets and attention mechanisms."),
}
"""Commands by name: the module, imported when it is asked for, and the first sentence about its function."""

ALIASES = {"import": "convert"}
"""Earlier names of commands."""


def load_command(name: str) -> Command:
    """Import a command of `COMMANDS` or `ALIASES`."""
    module, _ = COMMANDS[ALIASES.get(name, name)]
    command: Command = import_module(module).COMMAND
    return command
