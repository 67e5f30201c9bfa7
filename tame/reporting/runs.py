"""Several finished runs over the same images: whether they can be compared, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tame.evaluation.records import Run
from tame.explainers.rise import PUBLISHED_MASKS
from tame.metrics import Measure, Metric, build_metrics, measures_of
from tame.reporting.names import method_of, registered
from tame.utils.checks import InputError
from tame.utils.versions import VERSION

_MUST_AGREE = {"backbone": None, "weights_sha256": None, "score": "softmax", "precision": "32", "only": "all"}
"""Settings that runs must share, whatever they measure, and their values in runs that do not record them."""
_SAME_P = {"32": 2e-3, "16-mixed": 2e-2, "bf16-mixed": 5e-2}
"""Largest difference of p between devices and batch sizes that compute the same, by precision."""

_PHRASES = {
    "masking": "masking {}",
    "ic_margin": "IC margin {:g}",
    "road_reading": "ROAD read as {}",
    "noise": "noise {:g}",
    "steps": "{} steps",
}
"""How a caption says the settings of metrics; others are named as they are, where they are not the default."""


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs are over the same images, of the same classifier, with the same settings of their metrics.

    Raises:
        InputError: Saying what differs from the first, for no run, or for one with metrics or measures that this
            version does not know.
    """
    if not runs:
        raise InputError("expected at least one folder of an evaluation, got none")
    for run in runs:
        measures_in(run)
    for run in runs[1:]:
        if differences := list(_disagreements(runs[0], run)):
            raise InputError(
                f"expected runs that can be compared, got {run.folder} beside {runs[0].folder}, with "
                + "; ".join(differences)
            )


def _disagreements(first: Run, other: Run) -> Iterator[str]:
    """Yield what forbids to compare two runs."""
    a, b = (_MUST_AGREE | run.summary.settings for run in (first, other))
    shared = {metric.id for metric in metrics_in(other)}
    names = [*_MUST_AGREE]
    names += [key for metric in metrics_in(first) if metric.id in shared for key in metric.must_agree()]
    different = [key for key in dict.fromkeys(names) if a.get(key) != b.get(key)]
    yield from (f"{key} {b.get(key, 'unset')}, not {a.get(key, 'unset')}" for key in different)
    if version_of(first) != version_of(other) and any(key not in each for key in different for each in (a, b)):
        yield f"written by tame {version_of(other)}, not {version_of(first)}"
    if first.rows.files != other.rows.files or a.get("list_sha256") != b.get("list_sha256"):
        yield f"a list of {len(other.rows.files)} other images, not that of {len(first.rows.files)}"
    elif first.counted().files != other.counted().files:
        yield f"{len(other.counted().files)} counted images, not the same {len(first.counted().files)}"
    else:
        yield from _different_inputs(first, other)
    if unequal := first.summary.metrics.keys() ^ other.summary.metrics.keys():
        yield f"only one of them with {', '.join(sorted(unequal))}"


def _different_inputs(first: Run, other: Run) -> Iterator[str]:
    """Yield what shows that the classifier was given other inputs, in two runs over the same images."""
    a, b = (run.summary.settings.get("preprocessing") for run in (first, other))
    if a and b and a != b:  # earlier versions do not record it
        yield from (f"{name} {b.get(name)}, not {a[name]}" for name in a if a[name] != b.get(name))
        return
    columns, others = first.rows.columns, other.rows.columns
    if "target" in columns and "target" in others:  # not in every run of an earlier version
        known = ~(np.isnan(columns["target"]) | np.isnan(others["target"]))
        if count := int((known & (columns["target"] != others["target"])).sum()):
            yield f"another predicted class for {count} of the same images"
            return
    limit = _SAME_P.get(str(first.summary.settings.get("precision", "32")), max(_SAME_P.values()))
    apart = np.abs(columns["p"] - others["p"])
    if (largest := float(np.nanmax(apart, initial=0.0))) > limit:
        file = first.rows.files[int(np.nanargmax(apart))]
        yield f"other confidences p of the same images: they differ by up to {largest:.3g} ({file})"


def version_of(run: Run) -> str:
    """Return the version of this program that wrote a run."""
    return str(dict(run.summary.settings.get("versions") or {}).get("tame", "of an unknown version"))


def metrics_in(run: Run) -> tuple[Metric, ...]:
    """Return the metrics of a run with their settings.

    Raises:
        InputError: For a run of another version with metrics or settings that this version does not know.
    """
    settings = run.summary.settings
    try:
        return build_metrics(settings["metrics"], settings)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{_written_by_another(run)}: {error}") from error


def measures_in(run: Run) -> list[Measure]:
    """Return the measures of a run, in the order of tables.

    Raises:
        InputError: As `metrics_in`, and for measures that this version does not know.
    """
    metrics_in(run)
    measures, found = measures_of(run.summary.settings), run.summary.metrics
    if unknown := sorted(found.keys() - {measure.name for measure in measures}):
        raise InputError(f"{_written_by_another(run)}: unknown measures {', '.join(unknown)}")
    return [measure for measure in measures if measure.name in found]


def _written_by_another(run: Run) -> str:
    return (
        f"{run.folder} was written by tame {version_of(run)}; its metrics cannot be read by tame {VERSION}, "
        "evaluate again"
    )


def is_minmax_only(run: Run) -> bool:
    """Return whether a run is of a control whose ranks mean nothing, see `tame.explainers.Method`."""
    method = registered(method_of(run))
    return method is not None and method.minmax_only


def is_control(run: Run) -> bool:
    """Return whether a run is of a control, see `tame.explainers.Method`."""
    method = registered(method_of(run))
    return method is not None and method.control


def means_something(run: Run, measure: Measure) -> bool:
    """Return whether the maps of a run can be read as a measure does; see `tame.reporting.table.build_table`."""
    return measure.group == "minmax" or not is_minmax_only(run)


def preset_of(run: Run) -> str:
    """Return the preset with its changes, such as ``tame, masking=cnn``."""
    settings = run.summary.settings
    changes = [f"{name}={value}" for name, value in dict(settings.get("overrides") or {}).items()]
    return ", ".join([str(settings.get("preset", "-")), *changes])


def classifier_of(settings: Mapping[str, Any]) -> str:
    """Return backbone and weights, such as ``vgg16 (IMAGENET1K_V1)``; for weights from a file its name."""
    return f"{settings['backbone']} ({Path(settings['weights']).name})"


def images_of(run: Run) -> str:
    """Return how many images, of which list, and which of them count."""
    settings, count = run.summary.settings, len(run.rows.files)
    origin = f" of {Path(settings['list']).name}" if settings.get("list") else ""
    if (settings.get("only") or "all") == "all":
        return f"{count} images{origin}"
    return f"{len(run.counted().files)} of {count} images{origin} (only {settings['only']})"


def arguments_of(run: Run) -> dict[str, Any]:
    """Return the arguments that the method of a run was built with."""
    return dict(run.summary.settings.get("arguments") or {})


def notes_of(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return remarks on single runs: arguments that are not the default, and maps that were no explanation."""
    shared = _shared_layer(runs)
    notes = []
    for run, name in zip(runs, names, strict=True):
        summary, arguments = run.summary, arguments_of(run)
        masks, layer = arguments.get("masks", PUBLISHED_MASKS), arguments.get("layer")
        if masks != PUBLISHED_MASKS:
            notes.append(f"{name}: {masks} random masks, not the published {PUBLISHED_MASKS}.")
        if layer and not shared:
            notes.append(f"{name}: CAM layer {layer}.")
        if summary.constant or summary.invalid:
            notes.append(
                f"{name}: {summary.constant} constant and {summary.invalid} invalid maps of {summary.images}, "
                "counted as all ones."
                + (" Invalid maps are failures: no marks, no verdict." if summary.invalid else "")
            )
        if summary.undefined:
            notes.append(
                f"{name}: the classifier gives no finite confidence for {summary.undefined} of {summary.images} "
                "images, so that means over them are not numbers."
            )
    return notes


def caption_of(runs: Sequence[Run]) -> str:
    """Return what all runs of a table share."""
    settings = runs[0].summary.settings
    parts = [classifier_of(settings), images_of(runs[0])]
    if layer := _shared_layer(runs):
        parts.append(f"CAM layer {layer}")
    parts += dict.fromkeys(part for metric in metrics_in(runs[0]) for part in _settings_of(metric))
    if str(settings.get("precision", 32)) not in ("32", "32-true"):
        parts.append(f"precision {settings['precision']}")
    return ", ".join(parts) + "."


def _settings_of(metric: Metric) -> Iterator[str]:
    """Yield the settings of a metric that a caption states."""
    defaults, shared = type(metric)().settings(), metric.must_agree()
    for name, value in metric.settings().items():
        if name in _PHRASES:
            yield _PHRASES[name].format(value)
        elif name in shared and value != defaults[name]:
            yield f"{name} {value}"


def _shared_layer(runs: Sequence[Run]) -> str | None:
    """Return the layer that all runs were told to explain, None where they were told none or several."""
    layers = {arguments_of(run).get("layer") for run in runs}
    return layers.pop() if len(layers) == 1 else None
