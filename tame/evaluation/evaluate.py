"""Evaluate explanation methods: AD/IC, ROAD, insertion, deletion, or any registered metric."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.utils.data import DataLoader, Dataset

from tame.checkpoints.native import checkpoint_hash
from tame.classifier import FrozenClassifier
from tame.data.user_images import open_images
from tame.evaluation.map_files import MapFiles
from tame.evaluation.prepare import MethodChoices, code_of, method_title, own_arguments, prepare
from tame.evaluation.processes import Process
from tame.evaluation.records import Summary
from tame.evaluation.request import EvaluationRequest, ImageSelection, MetricSelection, RunSettings
from tame.evaluation.run import Evaluation, run_evaluations
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import check_names
from tame.explainers.user_code import ExplainFunction
from tame.types import MapScaling, MaskingKind, Precision
from tame.utils.checks import InputError
from tame.utils.folders import check_folder
from tame.utils.io import folder_name
from tame.utils.limits import check_numbers

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    explainers: str
    | ExplainFunction
    | CheckedExplainer
    | Mapping[str, str | ExplainFunction | CheckedExplainer] = "ttame",
    classifier: FrozenClassifier | nn.Module | str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    maps: str | Path | None = None,
    preset: str = "tame",
    data: str | Path | Dataset[Any] | DataLoader[Any] | None = None,
    lists: str | Path | None = None,
    list: str | Path | None = None,
    limit_images: int | None = None,
    only: Literal["all", "correct"] = "all",
    metrics: Sequence[str] = ("ad-ic",),
    map_scaling: Sequence[MapScaling] = ("minmax", "rank"),
    masking: Literal["backbone"] | MaskingKind | None = None,
    steps: int = 28,
    batch_size: int = 32,
    pass_rows: int | None = None,
    num_workers: int = 0,
    devices: int = 1,
    num_nodes: int = 1,
    precision: Precision = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    normalised: bool = False,
) -> pd.DataFrame:
    """Evaluate an explanation method.

    Every image's predicted class is explained, and metrics of the explanation are computed. A folder per method keeps
    a row per image (``rows.csv``) and the means with their provenance (``summary.json``), see `tame.read_run`.

    Args:
        explainers: Explanation method: a name of `tame list methods` (ttame@FOLDER names a checkpoint),
            package.module:function, an explainer, or a function of images (B, C, H, W) in [0, 1] and targets (B,) that
            returns maps (B, h, w); several of them by name as a dict.
        classifier: The classifier: frozen, a trained network, or what load_classifier takes as backbone; default: that
            of the explainers, otherwise efficientnet_lite0.
        checkpoint: Trained attention mechanism, a folder or file; default: the one shipped for the backbone.
        arguments: Arguments of methods by method, such as {"rise": {"masks": 500}}.
        maps: Folder of maps computed elsewhere, DIR/n01440764/x.npy or DIR/x.npy for the image n01440764/x.JPEG, in
            place of a method.
        preset: Preset of the metrics and methods: paper, released or tame, see `tame list presets`.
        data: ImageNet root (with ILSVRC2012_img_val) or any folder of images, or a Dataset or DataLoader, whose labels
            are not read; default: DATA of the environment or of .env.
        lists: Folder of image lists; default: LIST of the environment or of .env.
        list: List of images, a path or a name in lists; default: Evaluation.txt there, otherwise every image of the
            validation folder.
        limit_images: Use this many images only, drawn by seed; default: all.
        only: correct leaves misclassified images out of the metrics; it needs labels.
        metrics: Metrics, see `tame list metrics`.
        map_scaling: Scalings of the maps for AD and IC: minmax, rank.
        masking: Masking of the images for AD and IC: the backbone's own (backbone), cnn or vit; default: the preset's.
        steps: Steps of insertion and deletion.
        batch_size: Images per batch.
        pass_rows: Perturbed images per forward pass; default: as many as fit the memory.
        num_workers: Processes that read images; 0 reads in the main process.
        devices: Number of devices, or of processes on the CPU.
        num_nodes: Number of nodes.
        precision: auto (32), 32, 16-mixed or bf16-mixed.
        seed: Seed of everything random.
        out: Folder of the results; default: evaluations/BACKBONE/METHOD, and for several methods a folder for each in
            evaluations/BACKBONE.
        resume: Resume an interrupted run, and skip a finished one; false starts over.
        progress: Show a progress bar.
        normalised: Whether the float tensors of a Dataset or DataLoader are normalised by the classifier's mean and
            std; otherwise they are in [0, 1].

    Returns:
        A row per method and a column per measure, such as ``minmax/AD_100``, after the number of ``images``. Its
        ``attrs`` hold the ``folders`` by method, and whether this is the ``main_process`` (rank 0).

    Raises:
        InputError: For anything that cannot be used, before any work; if a folder holds a run with other settings.

    Example:
        >>> table = evaluate("gradcam", "resnet50", data="photos/", metrics=["ad-ic", "road"])  # doctest: +SKIP
        >>> table.loc["Grad-CAM", "minmax/AD_50"]  # doctest: +SKIP
    """
    check_numbers(
        limit_images=limit_images,
        steps=steps,
        batch_size=batch_size,
        pass_rows=pass_rows,
        num_workers=num_workers,
        devices=devices,
        num_nodes=num_nodes,
        seed=seed,
    )
    asked = dict(explainers) if isinstance(explainers, Mapping) else {"": explainers}
    if maps is not None and (isinstance(explainers, Mapping) or arguments):
        raise InputError("expected maps in place of a method, got both maps and several methods or their arguments")
    choices = MethodChoices(checkpoint, arguments or {}, preset, seed)
    prepared = prepare(asked if maps is None else {}, classifier, choices, devices, num_nodes)
    request = EvaluationRequest.of(
        prepared.classifier,
        ImageSelection(data, lists, list, limit_images, only, seed, normalised),
        MetricSelection(metrics, map_scaling, masking, steps, seed),
        preset,
        RunSettings(batch_size, pass_rows, num_workers, precision, resume, progress),
    )
    sources: dict[str, CheckedExplainer | MapFiles] = dict(prepared.explainers)
    if maps is not None:
        sources[""] = MapFiles(maps, request.images.files)
    folders = _folders(sources, Path(f"evaluations/{folder_name(prepared.classifier.spec.name)}"), out)
    evaluations = [evaluation_of(each, prepared.classifier, request, folders[key]) for key, each in sources.items()]
    process = prepared.processes.start()  # everything that can be checked beforehand is checked
    summaries = run_evaluations(evaluations, process)
    return _frame([key or _title(each) for key, each in sources.items()], evaluations, summaries, process)


def evaluation_of(
    explainer: CheckedExplainer | MapFiles, classifier: FrozenClassifier, request: EvaluationRequest, out: Path
) -> Evaluation:
    """Return the evaluation of an explainer, or of maps from files.

    Args:
        explainer: The explainer; it is evaluated on its own classifier.
        classifier: The classifier that maps from files explain.
        request: What all methods of the evaluation share.
        out: Folder of the run.
    """
    if isinstance(explainer, CheckedExplainer):
        classifier = explainer.classifier
    return Evaluation(
        _explain_with(explainer),
        classifier,
        open_images(request.images.entries, classifier.spec.preprocessing, user_images=request.images.user_images),
        request,
        _provenance(explainer, request),
        out,
        _title(explainer),
    )


_SHARED = {"preset", "devices", "num_nodes"} | {
    one.name for group in (ImageSelection, MetricSelection, RunSettings) for one in fields(group)
}


def evaluation_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data, metric and hardware arguments of `evaluate`, with its defaults for those that are not given.

    Raises:
        InputError: For an unknown argument, with the nearest and all known ones; for a number out of its limits.

    Example:
        >>> evaluation_arguments({"steps": 4})["metrics"]
        ('ad-ic',)
    """
    parameters = inspect.signature(evaluate).parameters
    defaults = {name: one.default for name, one in parameters.items() if name in _SHARED}
    check_names("an evaluation", defaults, given)
    check_numbers(**given)
    return defaults | dict(given)


def resolve_request(classifier: FrozenClassifier, arguments: Mapping[str, Any]) -> EvaluationRequest:
    """Return the request of the complete arguments of `evaluation_arguments`.

    Raises:
        InputError: For anything that cannot be used.
    """
    images, metrics, settings = (
        {one.name: arguments[one.name] for one in fields(group)}
        for group in (ImageSelection, MetricSelection, RunSettings)
    )
    return EvaluationRequest.of(
        classifier, ImageSelection(**images), MetricSelection(**metrics), arguments["preset"], RunSettings(**settings)
    )


def _folders(
    sources: Mapping[str, CheckedExplainer | MapFiles], default: Path, out: str | Path | None
) -> dict[str, Path]:
    """Return the folder of each run: one per key in ``out``, or ``out`` itself for a single method."""
    if "" in sources:
        folders = {"": Path(out) if out is not None else default / folder_name(_method(sources[""]))}
    else:
        folders = {key: Path(out or default) / folder_name(key) for key in sources}
    if not folders or len(set(folders.values())) < len(folders):
        raise InputError(f"expected methods with names of different folders, got {', '.join(sources) or 'none'}")
    for folder in folders.values():
        check_folder(folder)
    return folders


def _explain_with(source: CheckedExplainer | MapFiles) -> Any:
    """Return the function that computes or reads the maps of images, targets and positions in the list."""
    if isinstance(source, MapFiles):
        return lambda images, _targets, indices: source(indices).to(images.device)
    return lambda images, targets, _indices: source(images, targets)


def _method(source: CheckedExplainer | MapFiles) -> str:
    return source.folder.resolve().name if isinstance(source, MapFiles) else source.name


def _title(source: CheckedExplainer | MapFiles) -> str:
    return _method(source) if isinstance(source, MapFiles) else method_title(source)


def _provenance(source: CheckedExplainer | MapFiles, request: EvaluationRequest) -> dict[str, Any]:
    """Return what the numbers depend on, apart from the classifier and the metrics."""
    found: dict[str, Any] = {"method": _method(source), "preset": request.preset}
    overrides = dict(request.overrides)
    if isinstance(source, MapFiles):
        found |= {"maps": source.name, "maps_sha256": source.sha256}
    else:
        if code := code_of(source):
            found["code_sha256"] = code
        if checkpoint := source.arguments.get("checkpoint"):
            found |= {"checkpoint": str(checkpoint), "checkpoint_sha256": checkpoint_hash(checkpoint)}
        if own := own_arguments(source, request.preset):
            found["arguments"] = own
            overrides |= own
    return found | {"overrides": overrides, "list": request.images.name, "list_sha256": request.images.sha256}


def _frame(
    names: Sequence[str], evaluations: Sequence[Evaluation], summaries: Sequence[Summary], process: Process
) -> pd.DataFrame:
    """Return a row per method."""
    import pandas as pd

    rows = {
        name: {"images": summary.images} | {key: estimate.value for key, estimate in summary.metrics.items()}
        for name, summary in zip(names, summaries, strict=True)
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    frame.attrs |= {
        "folders": {name: str(one.out) for name, one in zip(names, evaluations, strict=True)},
        "main_process": process.rank == 0,
    }
    return frame
