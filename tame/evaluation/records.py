"""What a finished evaluation leaves on disk: its rows, and a summary with its provenance."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tame.evaluation.rows import COSTS, DELETE, ROWS, Rows, counted, damaged, read_rows
from tame.functional.bootstrap import FloatArray, standard_error
from tame.metrics import measures_of
from tame.perturbations.names import kept_column
from tame.utils.checks import InputError, shown
from tame.utils.io import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("tame")

SUMMARY = "summary.json"

_FLAGS = ("label", "target", "correct_top1", "correct_top5", "counted", "constant", "invalid")
_OLD_ARGUMENTS = {
    "rise_masks": "masks",
    "cam_layer": "layer",
}  # keys of earlier versions, and the arguments that they hold


class Estimate(NamedTuple):
    """A mean over images and its standard error, both in the unit of the measure (percent)."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Summary:
    """Result of an evaluation.

    Attributes:
        settings: All that the numbers depend on: ``method`` and its ``arguments``, ``checkpoint``, ``preset`` and
            ``overrides``, list of images, classifier, metrics and their settings, precision, versions.
        images: How many images entered the metrics.
        constant: How many of their maps were constant, and became all ones.
        invalid: How many of their maps held NaN or infinite values, and became all ones.
        labelled: How many images of the list have a label.
        accuracy: The classifier's own ``top1`` and ``top5`` accuracy on them, percent; empty without labels.
        cost: Means per image of `COSTS`, and, where it is known, ``work``: the multiply-adds of an explanation
            relative to one forward pass, see `tame.classifier.cost.relative_cost`.
        metrics: Estimates by name of the measure, such as ``minmax/AD_100`` or ``rank/IC_15``.
        undefined: How many images have a measure without a finite value, because the classifier gives NaN for them:
            means over them are NaN.
        rows_sha256: Hash of the file of the rows; None in runs of earlier versions.
    """

    settings: dict[str, Any]
    images: int
    constant: int
    invalid: int
    labelled: int
    accuracy: dict[str, float]
    cost: dict[str, float]
    metrics: dict[str, Estimate]
    undefined: int = 0
    rows_sha256: str | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self) | {"metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()}}


class Run(NamedTuple):
    """A finished evaluation, read from its folder."""

    folder: Path
    summary: Summary
    rows: Rows

    def counted(self) -> Rows:
        """Return the rows that enter the metrics."""
        return counted(self.rows)


def summarise(rows: Rows, settings: dict[str, Any], work: float | None = None) -> Summary:
    """Compute the summary of a run with these settings, see `tame.metrics.measures_of`, and this relative cost.

    Raises:
        InputError: If no image counts.
    """
    every, rows = rows.columns, counted(rows)
    if not rows.files:
        raise InputError(f"expected at least one image that counts, got none of {len(every['p'])}")
    known = ~np.isnan(every["label"])
    values = _values(rows.columns, settings)
    undefined = [file for file, *each in zip(rows.files, *values.values(), strict=True) if not np.isfinite(each).all()]
    if undefined:
        logger.warning(
            "%s gives no finite confidence for %d of %d images (%s): means over them are not numbers",
            settings.get("backbone", "the classifier"),
            len(undefined),
            len(rows.files),
            ", ".join(map(shown, undefined[:5])) + (", ..." if len(undefined) > 5 else ""),
        )
    return Summary(
        settings=settings,
        images=len(rows.files),
        constant=int(rows.columns["constant"].sum()),
        invalid=int(rows.columns["invalid"].sum()),
        labelled=int(known.sum()),
        accuracy={
            name: float(100 * every[f"correct_{name}"][known].mean()) for name in ("top1", "top5") if known.any()
        },
        cost={name: float(rows.columns[name].mean()) for name in COSTS} | ({} if work is None else {"work": work}),
        metrics={name: Estimate(float(each.mean()), standard_error(each)) for name, each in values.items()},
        undefined=len(undefined),
    )


def _values(columns: Mapping[str, FloatArray], settings: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Return each image's value (n,) of every measure.

    Raises:
        InputError: If a column is missing.
    """
    try:
        return {measure.name: measure.values(columns) for measure in measures_of(settings)}
    except KeyError as error:
        raise InputError(
            f"expected rows of the metrics {', '.join(settings['metrics'])}, got none of {error}"
        ) from error


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as JSON; the file is written atomically."""
    write_json(path, summary.as_dict())


def read_summary(path: Path) -> Summary:
    """Read a summary that `write_summary` wrote, also one of an earlier version (see `upgraded`).

    Raises:
        InputError: If the file does not exist, or is no summary of an evaluation.
    """
    if not path.is_file():
        raise InputError(f"expected the summary of a finished evaluation, got no file {shown(path)}")
    content = read_json(path, DELETE)
    try:
        metrics = {
            name: Estimate(*(math.nan if value is None else float(value) for value in estimate.values()))
            for name, estimate in content["metrics"].items()
        }
        summary = Summary(**content | {"metrics": metrics})
        return replace(summary, settings=upgraded(summary.settings))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"it is no summary of an evaluation: {error}") from error


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a run of any version with today's keys: a method's arguments stand under ``arguments``.

    Example:
        >>> upgraded({"method": "rise", "rise_masks": 20, "overrides": {"rise_masks": 20}})
        {'method': 'rise', 'overrides': {'masks': 20}, 'arguments': {'masks': 20}}
    """
    arguments = {new: settings[old] for old, new in _OLD_ARGUMENTS.items() if old in settings}
    if not arguments:
        return dict(settings)
    kept = {name: value for name, value in settings.items() if name not in _OLD_ARGUMENTS}
    changes = {_OLD_ARGUMENTS.get(name, name): value for name, value in (kept.get("overrides") or {}).items()}
    return kept | {"overrides": changes | arguments, "arguments": arguments}


def open_run(folder: str | Path) -> Run:
    """Read a finished evaluation from its folder.

    Raises:
        InputError: If there is none in the folder, or its rows are not those of its summary.
    """
    folder = Path(folder)
    run = Run(folder, read_summary(folder / SUMMARY), read_rows(folder / ROWS))
    check_rows(run)
    positions = run.rows.columns["index"].tolist()
    if positions != list(range(len(positions))) or len(run.counted().files) != run.summary.images:
        raise damaged(folder / ROWS, "it does not hold the images of the summary, once each")
    return run


def check_rows(run: Run) -> None:
    """Check that the rows of a run are those that its summary was computed from.

    Raises:
        InputError: If the file has changed since.
    """
    if run.summary.rows_sha256 not in (None, rows_hash(run.folder)):
        raise damaged(run.folder / ROWS, "it is not the file that the summary was computed from")


def rows_hash(folder: Path) -> str:
    """Return the SHA-256 of the file of the rows in a folder."""
    return hashlib.sha256((folder / ROWS).read_bytes()).hexdigest()


def read_run(folder: str | Path) -> pd.DataFrame:
    """Read a finished evaluation: a row per image.

    Args:
        folder: Folder of the evaluation.

    Returns:
        A DataFrame, indexed by position in the list, with the columns of ``rows.csv`` (``file``, ``target``, ``p``,
        the confidence on every perturbed image, ...) and each image's value of every measure, such as
        ``minmax/AD_50``. Its ``attrs["summary"]`` is the summary as a dict.

    Raises:
        InputError: If there is no finished evaluation in the folder.

    Example:
        >>> frame = read_run("evaluations/efficientnet_lite0/ttame")  # doctest: +SKIP
        >>> frame["minmax/AD_50"].mean()  # doctest: +SKIP
    """
    import pandas as pd

    run = open_run(folder)
    columns = {name: values for name, values in run.rows.columns.items() if name != "index"}
    columns |= _values(columns, run.summary.settings)
    index = pd.Index(run.rows.columns["index"].astype(int), name="index")
    frame = pd.DataFrame({"file": run.rows.files, **columns}, index=index)
    whole = {name: "Int64" for name in run.rows.columns if name in _FLAGS or name.endswith(kept_column(""))}
    frame = frame.astype(whole)
    frame.attrs["summary"] = run.summary.as_dict()
    return frame
