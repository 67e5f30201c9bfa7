"""From options to a finished evaluation of any explainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.data import Crop, ImageListDataset, draw, list_hash, read_list, resolve_folders, resolve_list, walk_images
from tame.data.lists import ImageEntry
from tame.evaluation.batch import Maps
from tame.evaluation.map_files import MapFiles
from tame.evaluation.plan import Plan
from tame.evaluation.processes import Process, Processes
from tame.evaluation.records import Summary
from tame.evaluation.run import run_evaluation
from tame.explainers.base import build_explainer
from tame.explainers.setup import load_classifier, provenance_of
from tame.explainers.user_code import ExplainFunction, GivenExplainer
from tame.options import EvaluateOptions
from tame.presets import PRESETS
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device, resolve_precision
from tame.utils.io import folder_name

_MARGINS = {"32": 1e-5, "16-mixed": 1e-3, "bf16-mixed": 1e-2}  # about what one rounding step of the logits does to p


class Finished(NamedTuple):
    """A finished evaluation: its summary, its folder, and whether this process is the one that speaks."""

    summary: Summary
    folder: Path
    speaks: bool


class ChosenImages(NamedTuple):
    """Images of an evaluation: entries, their names, the list's name and its hash."""

    entries: Sequence[ImageEntry]
    files: list[str]
    name: str
    sha256: str


def evaluate(
    method: str | ExplainFunction = "ttame", classifier: FrozenClassifier | None = None, **options: Any
) -> Summary:
    """Measure an explanation method on a list or folder of images; the same as `tame evaluate`.

    Args:
        method: Name of a method, ``package.module:function``, or a function of images (B, C, H, W) in [0, 1] and
            targets (B,) that returns maps (B, h, w).
        classifier: The classifier, on the device to compute on; None: the one that the options name.
        options: Those of `tame.options.EvaluateOptions`, such as ``data``, ``list``, ``metrics="ad-ic,road"``,
            ``limit_images``, ``backbone`` and ``out``.

    Returns:
        The summary; a row per image and the summary are in ``out``.

    Raises:
        InputError: For anything that cannot be used, before any work; if ``out`` holds a run with other settings.
        TypeError: For an unknown option.
    """
    name = method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)
    return run(EvaluateOptions(**options, method=name), None if isinstance(method, str) else method, classifier).summary


def run(
    options: EvaluateOptions,
    function: ExplainFunction | None = None,
    classifier: FrozenClassifier | None = None,
    process: Process | None = None,
) -> Finished:
    """Evaluate as ``options`` say.

    Args:
        options: What the command line says.
        function: Explains in place of their method.
        classifier: Is explained in place of their backbone.
        process: One of several that run already; None: start as many as the options say.

    Raises:
        InputError: For anything that cannot be used.
    """
    metrics, scalings, preset = options.asked_metrics(), options.scalings(), PRESETS.get(options.preset)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    processes = Processes(device, options.devices, options.num_nodes)
    if classifier is None:
        classifier = load_classifier(options, options).to(processes.device)
    elif options.devices * options.num_nodes > 1:
        classifier.to(processes.device)
    spec = classifier.spec
    entries, files, list_name, list_sha256 = chosen_images(options, spec)
    if options.only == "correct" and any(entry.label is None for entry in entries):
        raise InputError("expected a list with the labels of all images for --only correct, got some without")
    masking = spec.masking if options.masking == "backbone" else options.masking
    plan = Plan(
        metrics=metrics,
        scalings=scalings,
        masking=masking or preset.masking or spec.masking,
        ic_margin=_MARGINS[precision] if preset.ic_margin else 0.0,
        road_selection=preset.road_selection,
        road_space=preset.road_space,
        road_reading=preset.road_reading,
        steps=options.steps,
        seed=options.seed,
    )
    provenance = provenance_of(options, options) | {
        "overrides": _overrides(options, masking),
        "list": list_name,
        "list_sha256": list_sha256,
    }
    if options.maps or function:
        unused = ("checkpoint", "checkpoint_sha256", "cam_layer", "rise_masks")
        provenance = {name: value for name, value in provenance.items() if name not in unused}
    if options.maps:
        provenance |= {"method": Path(options.maps).resolve().name, "maps": options.maps}
    out = Path(options.out or f"evaluations/{folder_name(spec.name)}/{folder_name(provenance['method'])}")
    maps_of = _maps_source(options, function, classifier, files)
    process = process or processes.start()  # all that can be refused before has been
    summary = run_evaluation(
        maps_of,
        classifier,
        ImageListDataset(entries, Crop.of(spec.preprocessing)),
        plan,
        out=out,
        provenance=provenance,
        files=files,
        batch_size=options.batch_size,
        pass_rows=options.pass_rows,
        num_workers=options.num_workers,
        only=options.only,
        precision=precision,
        process=process,
        resume=options.resume,
    )
    return Finished(summary, out, process.rank == 0)


def chosen_images(options: EvaluateOptions, spec: BackboneSpec) -> ChosenImages:
    """Read the list that the options name, else every image of the validation folder, and draw from it.

    Raises:
        InputError: For images or a list that cannot be read.
    """
    root = resolve_folders(options.data).val
    file = resolve_list(options.list, options.lists, "Evaluation.txt")
    entries = read_list(file, root, spec.num_classes) if file else walk_images(root)
    entries = draw(entries, options.limit_images, options.seed)
    files = [os.path.relpath(entry.path, root) for entry in entries]
    return ChosenImages(entries, files, file.name if file else root.name, list_hash(entries, root))


def _overrides(options: EvaluateOptions, masking: str) -> dict[str, Any]:
    """Return the changes of the preset, for tables."""
    changes: dict[str, Any] = {"masking": masking} if masking else {}
    if options.rise_masks and options.method == "rise":
        changes["rise_masks"] = options.rise_masks
    return changes


def _maps_source(
    options: EvaluateOptions, function: ExplainFunction | None, classifier: FrozenClassifier, files: Sequence[str]
) -> Maps:
    """Return what gives the maps: files, the function, or the method that the options name."""
    if options.maps:
        maps = MapFiles(options.maps, files)
        return lambda images, _targets, indices: maps(indices).to(images.device)
    explainer = GivenExplainer(classifier, function) if function else build_explainer(classifier, options)
    return lambda images, targets, _indices: explainer(images, targets)
