"""Rows of an evaluation, one per image, as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tame.functional.bootstrap import FloatArray
from tame.utils.checks import InputError, shown
from tame.utils.io import open_text, replacing

ROWS = "rows.csv"
COSTS = ("explain_forward", "explain_backward", "seconds_explain", "seconds_perturb", "seconds_classify")
"""Columns of the cost of each image: passes of the explainer, and its share of the batch's seconds."""
DELETE = "Delete it and start the evaluation again, which keeps the other files"
"""What to do about a damaged file of a run."""

Row = Mapping[str, str | int | float]


class Rows(NamedTuple):
    """Rows of a run, by column.

    Attributes:
        files: File of each image, n of them.
        columns: Every other column by name, (n,); NaN where a cell is empty.
    """

    files: list[str]
    columns: dict[str, FloatArray]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, floats to their last digit; the file is written atomically."""
    with replacing(path) as temporary, open_text(temporary, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def join_rows(parts: Iterable[Path], path: Path) -> None:
    """Join CSV files of the same columns into one, in the order of the list, every cell as it was written.

    An image that occurs in two parts counts once.

    Raises:
        InputError: If a part is damaged, or has other columns.
    """
    found: dict[int, dict[str, str]] = {}
    for part in parts:
        lines = _lines(part)
        if found and lines[0].keys() != next(iter(found.values())).keys():
            raise damaged(part, "its columns are not those of the other parts")
        found |= {int(line["index"]): line for line in lines}
    write_rows(path, [found[index] for index in sorted(found)])


def read_rows(path: Path) -> Rows:
    """Read the rows of a run.

    Raises:
        InputError: If the file does not exist, was cut, or holds no rows of an evaluation.
    """
    lines = _lines(path)
    try:
        names = [name for name in dict.fromkeys(("p", *lines[0])) if name != "file"]
        columns = {name: np.array([_number(line[name]) for line in lines]) for name in names}
    except ValueError as error:
        raise damaged(path, str(error)) from error
    return Rows([line["file"] for line in lines], columns)


def counted(rows: Rows) -> Rows:
    """Return the rows that enter the metrics: all, or those of correctly classified images (``only``)."""
    chosen = rows.columns["counted"] == 1
    if chosen.all():
        return rows
    files = [file for file, keep in zip(rows.files, chosen, strict=True) if keep]
    return Rows(files, {name: values[chosen] for name, values in rows.columns.items()})


def damaged(path: Path, reason: str) -> InputError:
    """Return the error of a file of a run that is not as it was written."""
    return InputError(f"{shown(path)} is damaged: {' '.join(reason.split())}. {DELETE}")


def _lines(path: Path) -> list[dict[str, str]]:
    """Return the rows as they are written, at least one, each with every column."""
    if not path.is_file():
        raise InputError(f"expected the rows of an evaluation, got no file {shown(path)}")
    with open_text(path) as file:
        text = file.read()
    reader = csv.DictReader(StringIO(text, newline="\n"), strict=True)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise damaged(path, str(error)) from error
    if text and not text.endswith("\n"):
        raise damaged(path, "its last line is cut")
    if missing := {"index", "file", "p", "counted"} - set(reader.fieldnames or ()):
        raise damaged(path, f"it lacks the columns {', '.join(sorted(missing))}")
    if not lines:
        raise damaged(path, "it has no rows")
    for number, line in enumerate(lines, start=1):
        if None in line or None in line.values():
            raise damaged(path, f"row {number} has another number of cells than columns")
        if not line["index"].isdecimal():
            raise damaged(path, f"the index of row {number} is {line['index']!r}")
    return lines


def _number(cell: str) -> float:
    return math.nan if cell == "" else float(cell)
