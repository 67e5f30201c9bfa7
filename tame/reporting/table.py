"""Compare finished evaluations: every measure of several runs, who wins against a reference, and the curves of ROAD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tame.evaluation.records import Estimate, Run, read_run
from tame.explainers.controls import MINMAX_ONLY
from tame.functional.bootstrap import FloatArray, bootstrap_means, standard_error
from tame.metrics.measures import Measure, measures
from tame.perturbations.names import percent
from tame.reporting import formats
from tame.reporting.runs import (
    caption_of,
    check_comparable,
    classifier_of,
    images_of,
    means_something,
    method_of,
    names_of,
    notes_of,
)
from tame.utils.checks import InputError
from tame.visualize import PANELS, RoadCurves

Verdict = Literal["win", "tie", "loss"]


class Comparison(NamedTuple):
    """Difference to the reference run in percentage points, its 95 % interval, and who wins."""

    difference: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Entry:
    """One run in a table.

    Attributes:
        name: Its method, with its folder where a method occurs twice.
        method: Its method.
        preset: Its preset, with its changes.
        estimates: One per measure; None where the measure means nothing.
        comparisons: One per measure, against the reference; None for the reference itself, without one, and where
            an estimate is missing.
        cost: Means per image by name, see `tame.evaluation.records.Summary`.
    """

    name: str
    method: str
    preset: str
    estimates: list[Estimate | None]
    comparisons: list[Comparison | None]
    cost: dict[str, float]


@dataclass(frozen=True)
class Table:
    """Every measure of several runs over the same images.

    Attributes:
        caption: What all runs share.
        measures: The measures, also those that only the CSV shows.
        entries: The runs, in the order of the rows.
        reference: Position of the reference run, None without one.
        notes: Remarks below the table.
    """

    caption: str
    measures: list[Measure]
    entries: list[Entry]
    reference: int | None
    notes: list[str]

    def markdown(self) -> str:
        """Return the measures that tables show as Markdown, see `tame.reporting.formats.markdown`."""
        return formats.markdown(self)

    def latex(self) -> str:
        """Return the measures that tables show as LaTeX, see `tame.reporting.formats.latex`."""
        return formats.latex(self)

    def csv(self) -> str:
        """Return all numbers as CSV, see `tame.reporting.formats.csv_lines`."""
        return formats.csv_lines(self)


def build_table(folders: Sequence[str | Path], reference: str = "", seed: int = 0) -> Table:
    """Compare the evaluations in ``folders``, see `compare`.

    Args:
        folders: Folders of finished runs, in the order of the rows.
        reference: Name of the run to compare with (its method, or its folder's name); empty: no comparison.
        seed: Of the bootstrap.

    Raises:
        InputError: As `compare`, and for a folder without a finished run.
    """
    return compare([read_run(folder) for folder in folders], reference, seed)


def compare(runs: Sequence[Run], reference: str = "", seed: int = 0) -> Table:
    """Compare finished runs over the same images.

    ``all_ones`` and ``fake_cam`` have a min-max reading only: nearly all their pixels are tied, so that ranks and
    orders of removal would be those of a half-bright image and of the pixels' numbering; a dash stands there. A
    method wins a measure when the paired-bootstrap 95 % interval of its difference to the reference excludes 0 on
    the better side; all measures are compared on the same draws of images.

    Args:
        runs: In the order of the rows.
        reference: Name of the run to compare with (its method, or its folder's name); empty: no comparison.
        seed: Of the bootstrap.

    Raises:
        InputError: For no run, an unknown reference, or runs over different images, backbones, weights or settings
            of a metric, or with different measures.
    """
    check_comparable(runs)
    names = names_of(runs)
    position = _find(reference, names, runs) if reference else None
    columns = measures(runs[0].summary.settings)
    differences = _differences(runs, position, columns, seed)
    return Table(
        caption=caption_of(runs),
        measures=columns,
        entries=[
            Entry(
                name=name,
                method=method_of(run),
                preset=_preset(run),
                estimates=[_estimate(run, measure) for measure in columns],
                comparisons=differences[index],
                cost=dict(run.summary.cost),
            )
            for index, (name, run) in enumerate(zip(names, runs, strict=True))
        ],
        reference=position,
        notes=notes_of(runs, names),
    )


def curves_of(runs: Sequence[Run]) -> RoadCurves:
    """Return the curves of ROAD of several runs over the same images, for `tame.visualize.road_curves`.

    Controls without an order of pixels, ``all_ones`` and ``fake_cam``, are left out.

    Args:
        runs: In the order of the legend.

    Raises:
        InputError: As `compare`, and for runs without ROAD.
    """
    check_comparable(runs)
    settings = runs[0].summary.settings
    drawn = [(name, run) for name, run in zip(names_of(runs), runs, strict=True) if method_of(run) not in MINMAX_ONLY]
    if "road" not in settings["metrics"] or not drawn:
        raise InputError(
            "expected runs with the metric road to draw curves of, "
            f"got {', '.join(settings['metrics'])} of {', '.join(map(method_of, runs))}"
        )
    known = {measure.name: measure for measure in measures(settings)}
    estimates = {
        name: {
            panel: [_measured(known[f"road/{panel}_{percent(remove)}"], run) for remove in settings["removes"]]
            for panel in PANELS
        }
        for name, run in drawn
    }
    return RoadCurves(
        removes=list(settings["removes"]),
        values=_part(estimates, "value"),
        errors=_part(estimates, "standard_error"),
        start={"confidence": 100 * float(runs[0].counted().columns["p"].mean()), "kept": 100.0},
        title=f"ROAD: {classifier_of(settings)}, {images_of(runs[0])}",
    )


def _part(estimates: Mapping[str, Mapping[str, list[Estimate]]], name: str) -> dict[str, dict[str, list[float]]]:
    return {
        method: {panel: [getattr(each, name) for each in line] for panel, line in panels.items()}
        for method, panels in estimates.items()
    }


def _measured(measure: Measure, run: Run) -> Estimate:
    values = measure.values(run.counted().columns)
    return Estimate(float(values.mean()), standard_error(values))


def _find(reference: str, names: list[str], runs: Sequence[Run]) -> int:
    found = [
        index
        for index, (name, run) in enumerate(zip(names, runs, strict=True))
        if reference in (name, run.folder.name, str(run.folder))
    ]
    if len(found) != 1:
        raise InputError(f"expected one of the runs as reference: {', '.join(names)}, got {reference!r}")
    return found[0]


def _estimate(run: Run, measure: Measure) -> Estimate | None:
    estimate = run.summary.metrics[measure.name]
    return None if math.isnan(estimate.value) or not means_something(run, measure) else estimate


def _differences(
    runs: Sequence[Run], reference: int | None, columns: Sequence[Measure], seed: int
) -> list[list[Comparison | None]]:
    """Compare each run with the reference, measure by measure."""
    if reference is None:
        return [[None] * len(columns) for _ in runs]
    against = _scores(runs[reference], columns)
    return [
        [None] * len(columns)
        if index == reference
        else [
            Comparison(*interval, _verdict(interval.low, interval.high, measure.higher_is_better))
            if all(means_something(each, measure) for each in (run, runs[reference]))
            else None
            for interval, measure in zip(bootstrap_means(_scores(run, columns) - against, seed), columns, strict=True)
        ]
        for index, run in enumerate(runs)
    ]


def _scores(run: Run, columns: Sequence[Measure]) -> FloatArray:
    """Return each image's part of each measure, (n, columns)."""
    rows = run.counted()
    return np.stack([measure.values(rows.columns) for measure in columns], axis=1)


def _verdict(low: float, high: float, higher_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "tie"
    return "win" if (low > 0) == higher_is_better else "loss"


def _preset(run: Run) -> str:
    """Return the preset with its changes, such as ``tame, masking=cnn``."""
    settings = run.summary.settings
    changes = [f"{name}={value}" for name, value in dict(settings.get("overrides") or {}).items()]
    return ", ".join([str(settings.get("preset", "-")), *changes])
