"""Several finished runs over the same images: whether they can be compared, their names, and what they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tame.evaluation.records import Run
from tame.explainers.controls import MINMAX_ONLY
from tame.explainers.rise import PUBLISHED_MASKS
from tame.metrics.measures import Measure
from tame.utils.checks import InputError

_MUST_AGREE = ("backbone", "weights_sha256", "score", "precision", "only")
_OF_METRICS = {
    "ad-ic": ("masking", "ic_margin"),
    "road": ("road_selection", "road_space", "noise", "seed"),
    "insertion": ("steps",),
    "deletion": ("steps",),
}


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs are over the same images, of the same classifier, with the same settings of their metrics.

    Raises:
        InputError: Saying what differs from the first, or for no run.
    """
    if not runs:
        raise InputError("expected at least one folder of an evaluation, got none")
    for run in runs[1:]:
        if differences := list(_disagreements(runs[0], run)):
            raise InputError(
                f"expected runs that can be compared, got {run.folder} beside {runs[0].folder}, with "
                + "; ".join(differences)
            )


def _disagreements(first: Run, other: Run) -> Iterator[str]:
    """Yield what forbids to compare two runs."""
    a, b = first.summary.settings, other.summary.settings
    names = [*_MUST_AGREE, *(key for metric in a["metrics"] for key in _OF_METRICS.get(metric, ()))]
    yield from (f"{key} {b.get(key)}, not {a.get(key)}" for key in dict.fromkeys(names) if a.get(key) != b.get(key))
    if first.rows.files != other.rows.files or a.get("list_sha256") != b.get("list_sha256"):
        yield f"a list of {len(other.rows.files)} other images, not that of {len(first.rows.files)}"
    elif first.counted().files != other.counted().files:
        yield f"{len(other.counted().files)} counted images, not the same {len(first.counted().files)}"
    if unequal := first.summary.metrics.keys() ^ other.summary.metrics.keys():
        yield f"only one of them with {', '.join(sorted(unequal))}"


def method_of(run: Run) -> str:
    """Return the method of a run."""
    return str(run.summary.settings.get("method", run.folder.name))


def names_of(runs: Sequence[Run]) -> list[str]:
    """Name runs by method, and where a method occurs twice by the end of its folder that tells them apart too."""
    names = methods = [method_of(run) for run in runs]
    for method, times in Counter(methods).items():
        if times > 1:
            places = [place for place, name in enumerate(methods) if name == method]
            ends = _ends([runs[place].folder for place in places])
            short = [end.removeprefix(f"{method}-") for end in ends]  # a comparison's folders begin with the method
            told = dict(zip(places, short if len(set(short)) == times else ends, strict=True))
            names = [f"{name} ({told[place]})" if place in told else name for place, name in enumerate(names)]
    return names


def _ends(folders: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that none of the others has."""
    ends = []
    for place, folder in enumerate(folders):
        others = [*folders[:place], *folders[place + 1 :]]
        tails = (folder.parts[-count:] for count in range(1, len(folder.parts)))
        unique = (tail for tail in tails if all(other.parts[-len(tail) :] != tail for other in others))
        ends.append(str(Path(*next(unique, folder.parts))))
    return ends


def means_something(run: Run, measure: Measure) -> bool:
    """Return whether the maps of a run can be read as a measure does; see `tame.reporting.table.compare`."""
    return measure.group == "minmax" or method_of(run) not in MINMAX_ONLY


def classifier_of(settings: Mapping[str, Any]) -> str:
    """Return backbone and weights, such as ``vgg16 (IMAGENET1K_V1)``; of weights from a file its name."""
    return f"{settings['backbone']} ({Path(settings['weights']).name})"


def images_of(run: Run) -> str:
    """Return how many images, of which list, and which of them count."""
    settings, count = run.summary.settings, len(run.rows.files)
    origin = f" of {Path(settings['list']).name}" if settings.get("list") else ""
    if (settings.get("only") or "all") == "all":
        return f"{count} images{origin}"
    return f"{len(run.counted().files)} of {count} images{origin} (only {settings['only']})"


def cam_layer_of(run: Run) -> str:
    """Return the CAM layer that was asked for in place of the backbone's own; empty for none."""
    return str(run.summary.settings.get("cam_layer", ""))


def notes_of(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return remarks on single runs: what was made smaller or chosen otherwise, and maps that were no explanation."""
    several = len({cam_layer_of(run) for run in runs}) > 1
    notes = []
    for run, name in zip(runs, names, strict=True):
        summary = run.summary
        masks = summary.settings.get("rise_masks", PUBLISHED_MASKS)
        if masks != PUBLISHED_MASKS:
            notes.append(f"{name}: {masks} random masks, not the published {PUBLISHED_MASKS}.")
        if several and cam_layer_of(run):
            notes.append(f"{name}: CAM layer {cam_layer_of(run)}.")
        if summary.constant or summary.invalid:
            notes.append(
                f"{name}: {summary.constant} constant and {summary.invalid} invalid maps of {summary.images}, "
                "counted as all ones."
            )
    return notes


def caption_of(runs: Sequence[Run]) -> str:
    """Return what all runs of a table share."""
    settings = runs[0].summary.settings
    parts = [classifier_of(settings), images_of(runs[0])]
    if len(layers := {cam_layer_of(run) for run in runs}) == 1 and (layer := layers.pop()):
        parts.append(f"CAM layer {layer}")
    if "ad-ic" in settings["metrics"]:
        parts += [f"masking {settings['masking']}", f"IC margin {settings['ic_margin']:g}"]
    if "road" in settings["metrics"]:
        parts += [f"ROAD read as {settings['road_reading']}", f"noise {settings['noise']:g}"]
    if "steps" in settings and {"insertion", "deletion"} & set(settings["metrics"]):
        parts.append(f"{settings['steps']} steps")
    if str(settings.get("precision", 32)) not in ("32", "32-true"):
        parts.append(f"precision {settings['precision']}")
    return ", ".join(parts) + "."
