"""Several explanation methods on the same classifier and images: every run, then tables, curves and a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.classifier import FrozenClassifier
from tame.data import Crop, ImageListDataset, array_to_photo
from tame.evaluation.evaluate import chosen_images, run
from tame.evaluation.processes import Processes
from tame.evaluation.records import read_run
from tame.evaluation.run import LOOKS
from tame.explainers.setup import set_up_together, spec_of
from tame.functional.scores import scores
from tame.options import CompareOptions, EvaluateOptions
from tame.reporting.published import published_table
from tame.reporting.report import View, write_report
from tame.reporting.table import Table, compare, curves_of
from tame.types import Explainer
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device
from tame.utils.io import folder_name, replacing, write_array

logger = logging.getLogger("tame")

_LOOK_AT = 3  # classes of each image in the report


class Contender(NamedTuple):
    """One method of a comparison, ready to be measured."""

    options: EvaluateOptions
    classifier: FrozenClassifier
    explainer: Explainer


class Comparison(NamedTuple):
    """A finished comparison: its table, its folder, and whether this process is the one that speaks."""

    table: Table
    folder: Path
    speaks: bool


def run_comparison(options: CompareOptions) -> Comparison:
    """Measure every method in a folder of its own below ``out``, and compare them there.

    ``table.md`` (with the published numbers, for the paper's backbones), ``table.csv``, ``table.tex``, and the ROAD
    curves as ``road.png`` and ``road.pdf``; ``report.html`` where it is asked for. What is complete is not measured
    again. All methods explain the same classifier object.

    Raises:
        InputError: For anything that cannot be used, for any of the methods, before any work.
    """
    name = spec_of(options).name
    out = Path(options.out or f"comparisons/{folder_name(name)}")
    processes = Processes(resolve_device(options.device), options.devices, options.num_nodes)
    contenders = prepare(options, out, processes.device)
    reference = _reference(options, contenders)
    process = processes.start()
    for number, (asked, classifier, _) in enumerate(contenders, start=1):
        if process.rank == 0:
            logger.info("%s: method %d of %d", asked.method, number, len(contenders))
        run(asked, classifier=classifier, process=process)
    runs = [read_run(asked.out) for asked, *_ in contenders]
    methods = [asked.method for asked, *_ in contenders]
    table = compare(runs, reference, options.seed)
    if process.rank == 0:
        published = published_table(name, methods)
        note = "\nPublished, on 2,000 images of ImageNet's validation set (T-TAME, IEEE Access 2024):\n\n"
        _write(out / "table.md", table.markdown() + (note + published if published else ""))
        _write(out / "table.csv", table.csv())
        _write(out / "table.tex", table.latex())
        if "road" in options.asked_metrics():
            from tame.visualize import road_curves

            road_curves(curves_of(runs), out / "road")
        if options.report:
            curves = curves_of(runs) if "road" in options.asked_metrics() else None
            names = [entry.name for entry in table.entries]  # a method may occur with several checkpoints
            write_report(Path(options.report) / "report.html", table, curves, look(options, contenders, names))
    return Comparison(table, out, process.rank == 0)


def prepare(options: CompareOptions, out: Path, device: str) -> list[Contender]:
    """Build every method on one classifier, so that one that cannot serve it is refused before any work.

    A method with a checkpoint is written ``lcam_img@FOLDER``.
    """
    asked = [_of_one_method(options, text, out) for text in options.asked_methods()]
    if len({one.out for one in asked}) < len(asked):
        raise InputError(f"expected --methods with folders of different names, got {options.methods!r}")
    setups = set_up_together([(one, one) for one in asked], device)
    return [Contender(one, setup.classifier, setup.explainer) for one, setup in zip(asked, setups, strict=True)]


def look(options: CompareOptions, contenders: Sequence[Contender], names: Sequence[str]) -> list[View]:
    """Explain the first images and their three best classes by every method, to be looked at under these names.

    What an earlier call explained is read from the runs' folders.
    """
    classifier = contenders[0].classifier
    spec = classifier.spec
    entries, files, *_ = chosen_images(contenders[0].options, spec)
    shown = min(options.report_images, len(files))
    dataset, device = ImageListDataset(entries, Crop.of(spec.preprocessing)), classifier.mean.device
    views = []
    with torch.inference_mode(), tqdm(total=shown * len(contenders), desc="report", unit="method") as bar:
        for index in range(shown):
            image = dataset[index]["image"].unsqueeze(0).to(device)
            best = scores(classifier.logits(image), spec.score)[0].topk(min(_LOOK_AT, spec.num_classes))
            classes = [
                (target, spec.class_names[target], confidence)
                for target, confidence in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            maps = {}
            for name, one in zip(names, contenders, strict=True):
                for target, *_ in classes:
                    maps[name, target] = _map(one, index, image, target)
                bar.update()
            views.append(View(files[index], array_to_photo(image[0].cpu()), classes, maps))
    return views


def _map(one: Contender, index: int, image: Tensor, target: int) -> np.ndarray:
    """Explain ``target`` on the image (1, C, H, W) at ``index``, or read the map (h, w) that an earlier call left."""
    path = Path(one.options.out) / LOOKS / f"{index}-{target}.npy"
    if not path.is_file():
        found = one.explainer(image, torch.tensor([target], device=image.device))
        write_array(path, found[0].float().cpu().numpy())
    values: np.ndarray = np.load(path, allow_pickle=False)
    return values


def _of_one_method(options: CompareOptions, text: str, out: Path) -> EvaluateOptions:
    method, _, checkpoint = text.partition("@")
    common = {field.name: getattr(options, field.name) for field in fields(EvaluateOptions) if field.init}
    name = f"{method}-{Path(checkpoint).name}" if checkpoint else method
    folder = out / folder_name(name)
    return replace(
        EvaluateOptions(**common), method=method, checkpoint=checkpoint or options.checkpoint, out=str(folder)
    )


def _reference(options: CompareOptions, contenders: Sequence[Contender]) -> str:
    """Return the folder of the run to compare with: the one asked for, else the first T-TAME, if there is any."""
    asked = options.reference or "ttame"
    for one, *_ in contenders:
        if asked in (one.method, Path(one.out).name) and len(contenders) > 1:
            return one.out
    if options.reference:
        known = ", ".join(Path(one.out).name for one, *_ in contenders)
        raise InputError(f"expected --reference among several methods ({known}), got {options.reference!r}")
    return ""


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
