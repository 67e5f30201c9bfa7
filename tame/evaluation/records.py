"""What an evaluation leaves on disk: a row per image, and a summary with its provenance."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tame.checks import InputError
from tame.evaluation.bootstrap import FloatArray, standard_error
from tame.files import replacing, write_json
from tame.functional.masking import check_keep
from tame.functional.scores import drop, increase
from tame.types import MapScaling

ROWS = "rows.csv"
SUMMARY = "summary.json"

Row = Mapping[str, str | int | float]


class Rows(NamedTuple):
    """Rows of a run, by column.

    Attributes:
        files: File of each image, n of them.
        columns: Every other column by name, (n,); NaN where a cell is empty.
    """

    files: list[str]
    columns: dict[str, FloatArray]


class Estimate(NamedTuple):
    """A mean over images and its standard error, both in percent."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Summary:
    """Result of an evaluation.

    Attributes:
        settings: All that the numbers depend on: scalings, keeps, masking, ic_margin, backbone, weights, versions,
            and what the caller said (method, preset, list, checkpoint, seed).
        images: How many.
        constant: How many maps were constant, and became all ones.
        invalid: How many maps held NaN or infinite values, and became all ones.
        labelled: How many images have a label.
        accuracy: The classifier's own ``top1`` and ``top5`` accuracy on them, percent; empty without labels.
        metrics: Estimates by name, such as ``minmax/AD_100`` or ``rank/IC_15``.
    """

    settings: dict[str, Any]
    images: int
    constant: int
    invalid: int
    labelled: int
    accuracy: dict[str, float]
    metrics: dict[str, Estimate]


class Run(NamedTuple):
    """A finished evaluation, read from its folder."""

    folder: Path
    summary: Summary
    rows: Rows


def percent(keep: float) -> str:
    """Return a fraction as a percentage for names.

    Example:
        >>> percent(1.0), percent(0.15), percent(0.125)
        ('100', '15', '12.5')
    """
    return f"{100 * keep:g}"


def score_column(scaling: MapScaling, keep: float) -> str:
    """Return the column that holds p' of a scaling and a keep, such as ``minmax_p_100``."""
    return f"{scaling}_p_{percent(keep)}"


def score_columns(scalings: Sequence[MapScaling], keeps: Sequence[float]) -> list[str]:
    """Return the columns of all scalings and keeps, scalings outermost.

    Raises:
        InputError: If one of them occurs twice, or a keep is not in (0, 1].
    """
    for keep in keeps:
        check_keep(keep)
    names = [score_column(scaling, keep) for scaling in scalings for keep in keeps]
    if len(set(names)) < len(names):
        raise InputError(f"expected different scalings and keeps, got {list(scalings)} and {list(keeps)}")
    return names


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, floats to their last digit; the file appears whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def join_rows(parts: Iterable[Path], path: Path) -> None:
    """Join CSV files of the same columns into one, byte by byte; it appears whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        for number, part in enumerate(parts):
            header, _, body = part.read_text(encoding="utf-8").partition("\n")
            file.write(body if number else f"{header}\n{body}")


def read_rows(path: Path) -> Rows:
    """Read the rows of a run.

    Raises:
        InputError: If they are not there, or are no rows of an evaluation.
    """
    if not path.is_file():
        raise InputError(f"expected the rows of an evaluation, got no file {path}")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
    names = [name for name in reader.fieldnames or () if name != "file"]
    try:
        files = [line["file"] for line in lines]
        columns = {name: np.array([_number(line[name]) for line in lines]) for name in ("p", *names)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no rows of an evaluation: cannot read {error}") from error
    return Rows(files, columns)


def _number(cell: str) -> float:
    return math.nan if cell == "" else float(cell)


def image_scores(rows: Rows, scaling: MapScaling, keep: float, margin: float) -> dict[str, FloatArray]:
    """Return each image's part of the metrics in percent, ``{"AD": (n,), "IC": (n,)}``; their means are AD and IC."""
    confidence = torch.from_numpy(rows.columns["p"])
    masked = torch.from_numpy(rows.columns[score_column(scaling, keep)])
    return {
        "AD": 100 * drop(confidence, masked).numpy(),
        "IC": 100 * increase(confidence, masked, margin).double().numpy(),
    }


def summarise(rows: Rows, settings: dict[str, Any]) -> Summary:
    """Compute the summary of a run; ``settings`` hold its scalings, keeps and ic_margin."""
    metrics = {}
    for scaling in settings["scalings"]:
        for keep in settings["keeps"]:
            for name, values in image_scores(rows, scaling, keep, settings["ic_margin"]).items():
                metrics[f"{scaling}/{name}_{percent(keep)}"] = Estimate(float(values.mean()), standard_error(values))
    columns = rows.columns
    known = ~np.isnan(columns["label"])
    accuracy = {name: float(100 * columns[f"correct_{name}"][known].mean()) for name in ("top1", "top5") if known.any()}
    return Summary(
        settings=settings,
        images=len(rows.files),
        constant=int(columns["constant"].sum()),
        invalid=int(columns["invalid"].sum()),
        labelled=int(known.sum()),
        accuracy=accuracy,
        metrics=metrics,
    )


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON; the file appears whole or not at all."""
    metrics = {name: estimate._asdict() for name, estimate in summary.metrics.items()}
    write_json(path, asdict(summary) | {"metrics": metrics})


def read_summary(path: Path) -> Summary:
    """Read a summary that `write_summary` wrote.

    Raises:
        InputError: If it is not there, or is no summary of an evaluation.
    """
    if not path.is_file():
        raise InputError(f"expected the summary of a finished evaluation, got no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        metrics = {
            name: Estimate(*(math.nan if value is None else value for value in estimate.values()))
            for name, estimate in content["metrics"].items()
        }
        return Summary(**content | {"metrics": metrics})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no summary of an evaluation: {error}") from error


def read_run(folder: str | Path) -> Run:
    """Read a finished evaluation from its folder.

    Raises:
        InputError: If the folder holds none.
    """
    folder = Path(folder)
    return Run(folder, read_summary(folder / SUMMARY), read_rows(folder / ROWS))
