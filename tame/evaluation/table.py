"""Compare finished evaluations: a table of AD and IC, and who wins against a reference."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tame.checks import InputError
from tame.evaluation.bootstrap import FloatArray, bootstrap_means
from tame.evaluation.records import Run, image_scores, percent, read_run
from tame.explainers.controls import MINMAX_ONLY
from tame.types import MapScaling

Verdict = Literal["win", "tie", "loss"]

_MUST_AGREE = ("backbone", "weights_sha256", "masking", "ic_margin")


class Column(NamedTuple):
    """One measure: scaling, ``AD`` or ``IC``, and keep."""

    scaling: MapScaling
    metric: str
    keep: float

    @property
    def title(self) -> str:
        """Heading of the column."""
        return f"{self.metric} {percent(self.keep)} % ({self.scaling})"

    @property
    def name(self) -> str:
        """Name of the measure in summaries."""
        return f"{self.scaling}/{self.metric}_{percent(self.keep)}"

    @property
    def better(self) -> int:
        """1 where higher is better (IC), -1 where lower is (AD)."""
        return 1 if self.metric == "IC" else -1


class Comparison(NamedTuple):
    """Difference to the reference run in percentage points, its 95 % interval, and who wins."""

    difference: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Table:
    """AD and IC of several runs over the same images.

    Attributes:
        caption: What all runs share.
        names: Name of each run.
        methods: Method of each run.
        presets: Preset of each run, with its changes.
        columns: The measures.
        values: Per run and column, percent; None where the reading means nothing.
        reference: Position of the reference run, None without one.
        comparisons: Per run and column, against the reference; None for the reference itself and where a value is
            missing.
        notes: Remarks below the table.
    """

    caption: str
    names: list[str]
    methods: list[str]
    presets: list[str]
    columns: list[Column]
    values: list[list[float | None]]
    reference: int | None
    comparisons: list[list[Comparison | None]]
    notes: list[str]

    def markdown(self) -> str:
        """Return the table as Markdown, the best value of each column bold."""
        lines = [self.caption, ""]
        lines += _markdown_lines(
            ["method", "preset", *(column.title for column in self.columns)],
            [
                [name, preset, *cells]
                for name, preset, cells in zip(self.names, self.presets, self._cells(), strict=True)
            ],
        )
        if self.reference is not None:
            lines += ["", f"Difference to {self.names[self.reference]}, 95 % interval, verdict for the method:", ""]
            rows = [
                [name, *map(_comparison_cell, comparisons)]
                for index, (name, comparisons) in enumerate(zip(self.names, self.comparisons, strict=True))
                if index != self.reference
            ]
            lines += _markdown_lines(["method", *(column.title for column in self.columns)], rows)
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Return one line per run and measure: its value, and its comparison where there is a reference."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["method", "preset", "scaling", "metric", "keep", "value", "difference", "low", "high", "verdict"]
        )
        for index, name in enumerate(self.names):
            for column, value, comparison in zip(
                self.columns, self.values[index], self.comparisons[index], strict=True
            ):
                cells = comparison or ("",) * 4
                writer.writerow([name, self.presets[index], *column, "" if value is None else value, *cells])
        return file.getvalue()

    def _cells(self) -> list[list[str]]:
        """Return the values as text, the best ones bold; controls that fool a measure are never the best."""
        cells = [["-" if value is None else f"{value:.2f}" for value in row] for row in self.values]
        rivals = [row for row, method in enumerate(self.methods) if method not in MINMAX_ONLY]
        for position, column in enumerate(self.columns):
            shown = [float(cells[row][position]) for row in rivals if cells[row][position] != "-"]
            best = max(shown, key=lambda value: column.better * value, default=None)
            for row in rivals:
                if cells[row][position] != "-" and float(cells[row][position]) == best:
                    cells[row][position] = f"**{cells[row][position]}**"
        return cells


def build_table(folders: Sequence[str | Path], reference: str = "", seed: int = 0) -> Table:
    """Compare the evaluations in ``folders``.

    ``all_ones`` and ``fake_cam`` have no rank-scaled reading: nearly all their ranks are 0.5, so the number would be
    that of a half-bright image, and stands as a dash. A method wins a measure when the paired-bootstrap 95 %
    interval of its difference to the reference excludes 0 on the better side (AD: lower, IC: higher).

    Args:
        folders: Folders of finished runs, in the order of the rows.
        reference: Name of the run to compare with (its method, or its folder's name); empty: no comparison.
        seed: Of the bootstrap.

    Raises:
        InputError: For no run, an unknown reference, or runs over different images, backbones, weights, maskings,
            margins, or with different measures.
    """
    if not folders:
        raise InputError("expected at least one folder of an evaluation, got none")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    names = _names(runs)
    columns = _columns(runs[0])
    position = _find(reference, names, runs) if reference else None
    scores = [_scores(run, columns) for run in runs]
    return Table(
        caption=_caption(runs[0]),
        names=names,
        methods=list(map(_method, runs)),
        presets=[_preset(run) for run in runs],
        columns=columns,
        values=[
            [run.summary.metrics[column.name].value if _means_something(run, column) else None for column in columns]
            for run in runs
        ],
        reference=position,
        comparisons=[_compare(index, position, runs, scores, columns, seed) for index in range(len(runs))],
        notes=[note for name, run in zip(names, runs, strict=True) if (note := _note(name, run))],
    )


def _check_comparable(first: Run, other: Run) -> None:
    a, b = first.summary.settings, other.summary.settings
    differences = [f"{key} {b.get(key)}, not {a.get(key)}" for key in _MUST_AGREE if a.get(key) != b.get(key)]
    if first.rows.files != other.rows.files or a.get("list_sha256") != b.get("list_sha256"):
        differences.append(f"a list of {len(other.rows.files)} other images, not that of {len(first.rows.files)}")
    measures = [set(run.summary.metrics) for run in (first, other)]
    if measures[0] != measures[1]:
        differences.append(f"measures {sorted(measures[1])}, not {sorted(measures[0])}")
    if differences:
        raise InputError(
            f"expected runs that can be compared, got {other.folder} beside {first.folder}, with "
            + "; ".join(differences)
        )


def _columns(run: Run) -> list[Column]:
    settings = run.summary.settings
    return [
        Column(scaling, metric, keep)
        for scaling in settings["scalings"]
        for keep in settings["keeps"]
        for metric in ("AD", "IC")
    ]


def _method(run: Run) -> str:
    return str(run.summary.settings.get("method", run.folder.name))


def _names(runs: Sequence[Run]) -> list[str]:
    """Name runs by method, and by folder too where a method occurs twice."""
    times = Counter(map(_method, runs))
    return [_method(run) if times[_method(run)] == 1 else f"{_method(run)} ({run.folder})" for run in runs]


def _find(reference: str, names: list[str], runs: Sequence[Run]) -> int:
    found = [
        index
        for index, (name, run) in enumerate(zip(names, runs, strict=True))
        if reference in (name, run.folder.name, str(run.folder))
    ]
    if len(found) != 1:
        raise InputError(f"expected one of the runs as reference: {', '.join(names)}, got {reference!r}")
    return found[0]


def _means_something(run: Run, column: Column) -> bool:
    return column.scaling == "minmax" or _method(run) not in MINMAX_ONLY


def _scores(run: Run, columns: Sequence[Column]) -> FloatArray:
    """Return each image's part of each measure, (n, columns)."""
    margin = run.summary.settings["ic_margin"]
    return np.stack(
        [image_scores(run.rows, column.scaling, column.keep, margin)[column.metric] for column in columns], axis=1
    )


def _compare(
    index: int,
    reference: int | None,
    runs: Sequence[Run],
    scores: Sequence[FloatArray],
    columns: Sequence[Column],
    seed: int,
) -> list[Comparison | None]:
    if reference is None or index == reference:
        return [None] * len(columns)
    intervals = bootstrap_means(scores[index] - scores[reference], seed)
    return [
        Comparison(*interval, _verdict(interval.low, interval.high, column.better))
        if _means_something(runs[index], column) and _means_something(runs[reference], column)
        else None
        for interval, column in zip(intervals, columns, strict=True)
    ]


def _verdict(low: float, high: float, better: int) -> Verdict:
    if low <= 0 <= high:
        return "tie"
    return "win" if (low > 0) == (better > 0) else "loss"


def _preset(run: Run) -> str:
    """Return the preset with its changes, such as ``tame, masking=cnn``."""
    settings = run.summary.settings
    changes = [f"{name}={value}" for name, value in dict(settings.get("overrides") or {}).items()]
    return ", ".join([str(settings.get("preset", "-")), *changes])


def _caption(run: Run) -> str:
    settings = run.summary.settings
    return (
        f"AD (lower is better) and IC (higher is better) in percent: {settings['backbone']} ({settings['weights']}), "
        f"{run.summary.images} images, masking {settings['masking']}, IC margin {settings['ic_margin']:g}."
    )


def _note(name: str, run: Run) -> str:
    summary = run.summary
    if not (summary.constant or summary.invalid):
        return ""
    return (
        f"{name}: {summary.constant} constant and {summary.invalid} invalid maps of {summary.images}, "
        "counted as all ones."
    )


def _comparison_cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    return f"{comparison.difference:+.2f} [{comparison.low:+.2f}, {comparison.high:+.2f}] {comparison.verdict}"


def _markdown_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
