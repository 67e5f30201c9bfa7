"""Compare finished evaluations: every measure of several runs, and which wins against a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tame.evaluation.records import Estimate, Run, open_run
from tame.functional.bootstrap import FloatArray, Interval, bootstrap_means
from tame.metrics import Measure
from tame.reporting import formats
from tame.reporting.curves import draw_curves
from tame.reporting.names import find_run, keys_of, names_of
from tame.reporting.results import Comparison, Entry, Table, Verdict
from tame.reporting.runs import (
    caption_of,
    check_comparable,
    is_control,
    means_something,
    measures_in,
    notes_of,
    preset_of,
)
from tame.utils.checks import InputError
from tame.utils.io import write_text

TableFormat = Literal["markdown", "latex", "csv"]

FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": formats.markdown,
    "latex": formats.latex,
    "csv": formats.csv,
}


def table(
    runs: Sequence[str | Path],
    *,
    reference: str | None = None,
    format: TableFormat = "markdown",
    out: str | Path | None = None,
    curves: str | Path | None = None,
    seed: int = 0,
) -> str:
    """Compare finished evaluations of the same images in one table.

    Args:
        runs: Folders of evaluations, in the order of the rows.
        reference: Method or folder to compare the others with, by paired bootstrap; default: no comparison.
        format: markdown, latex (needs the package booktabs) or csv (all numbers, a line per method and measure).
        out: File to write the table to; default: none.
        curves: File to draw the ROAD curves in, as PNG and PDF; default: none.
        seed: Seed of the bootstrap.

    Returns:
        The table as text.

    Raises:
        InputError: For a folder without a finished evaluation, runs that cannot be compared (other images, classifier
            or settings of a metric), an unknown reference or format, or curves of runs without ROAD.

    Example:
        >>> print(table(["runs/ttame", "runs/gradcam"], reference="ttame"))  # doctest: +SKIP
    """
    if format not in FORMATS:
        raise InputError(f"expected a format among {', '.join(FORMATS)}, got {format!r}")
    if isinstance(runs, str | Path):
        raise InputError(f"expected a sequence of folders, got the single path {str(runs)!r}")
    if out is not None and Path(out).is_dir():
        raise InputError(f"expected a file to write the table to, got the folder {out}")
    finished = [open_run(folder) for folder in runs]
    text = FORMATS[format](build_table(finished, reference, seed))
    if curves is not None:
        draw_curves(finished, curves)
    if out is not None:
        write_text(Path(out), text)
    return text


def build_table(runs: Sequence[Run | str | Path], reference: str | None = None, seed: int = 0) -> Table:
    """Compare finished runs over the same images.

    The maps of ``all_ones`` and ``fake_cam`` have a min-max reading only: nearly all their pixels are tied, so that
    their ranks are arbitrary; other measures are missing. A method wins a measure when the paired-bootstrap 95 %
    interval of its difference to the reference excludes 0 on the better side; all measures are compared on the same
    draws of images. A run with invalid maps (NaN or infinite values, counted as all ones, which reach an Average Drop
    of 0) bears no marks and no verdicts, and neither do others against it; a note says so.

    Args:
        runs: The runs or their folders, in the order of the rows.
        reference: Run to compare with: its folder, its method's id or its method's name; default: no comparison.
        seed: Seed of the bootstrap.

    Raises:
        InputError: For no run, a folder without a finished run, an unknown reference, or runs over different images,
            backbones, weights or settings of a metric, or with different measures.
    """
    finished = [run if isinstance(run, Run) else open_run(run) for run in runs]
    check_comparable(finished)
    names = names_of(finished)
    position = find_run(reference, finished) if reference else None
    columns = measures_in(finished[0])
    comparisons = _comparisons(finished, position, columns, seed)
    return Table(
        caption=caption_of(finished),
        measures=columns,
        entries=[
            Entry(
                name=name,
                key=key,
                preset=preset_of(run),
                control=is_control(run),
                images=run.summary.images,
                invalid=run.summary.invalid,
                estimates=[_estimate(run, measure) for measure in columns],
                comparisons=comparisons[index],
                cost=dict(run.summary.cost),
            )
            for index, (name, key, run) in enumerate(zip(names, keys_of(finished), finished, strict=True))
        ],
        reference=position,
        notes=notes_of(finished, names),
    )


def _estimate(run: Run, measure: Measure) -> Estimate | None:
    estimate = run.summary.metrics[measure.name]
    return None if math.isnan(estimate.value) or not means_something(run, measure) else estimate


def _comparisons(
    runs: Sequence[Run], reference: int | None, columns: Sequence[Measure], seed: int
) -> list[list[Comparison | None]]:
    """Compare each run with the reference, measure by measure."""
    if reference is None:
        return [[None] * len(columns) for _ in runs]
    against = _scores(runs[reference], columns)
    return [
        [None] * len(columns)
        if index == reference or run.summary.invalid or runs[reference].summary.invalid
        else [
            _comparison(interval, measure) if all(means_something(each, measure) for each in pair) else None
            for interval, measure in zip(bootstrap_means(_scores(run, columns) - against, seed), columns, strict=True)
        ]
        for index, run in enumerate(runs)
        for pair in [(run, runs[reference])]
    ]


def _scores(run: Run, columns: Sequence[Measure]) -> FloatArray:
    """Return each image's part of each measure, (n, columns)."""
    rows = run.counted()
    return np.stack([measure.values(rows.columns) for measure in columns], axis=1)


def _comparison(interval: Interval, measure: Measure) -> Comparison | None:
    """Return who wins; None where there is no interval, because a value of some image is NaN."""
    if any(map(math.isnan, interval)):
        return None
    verdict: Verdict
    if interval.low <= 0 <= interval.high:
        verdict = "tie"
    else:
        verdict = "win" if (interval.low > 0) == measure.higher_is_better else "loss"
    return Comparison(*interval, verdict)
