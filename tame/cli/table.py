"""``tame table``: finished evaluations in one table."""

from __future__ import annotations

import sys

from tame.cli.command import Arguments, Command, Part
from tame.reporting.table import table
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Build the table; print it, unless it goes to a file."""
    text = table(**arguments.of(table))
    if arguments["out"] is None:
        print(text)
    else:
        print(shown(f"The table is in {arguments['out']}"), file=sys.stderr)
    if arguments["curves"] is not None:
        print(shown(f"The ROAD curves are in {arguments['curves']}.png and .pdf"), file=sys.stderr)
    return 0


COMMAND = Command(
    run=run,
    parts=(Part(table),),
    examples=(
        "tame table evaluations/resnet50/*",
        "tame table evaluations/resnet50/* --reference ttame --format latex --out table.tex",
    ),
    positional="runs",
    files=("out", "curves"),
)
