"""Several explanation methods on the same classifier and images: every run, then tables, curves and a page."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.devices import resolve_device
from tame.evaluation.command import run
from tame.evaluation.published import published_table
from tame.evaluation.records import read_run
from tame.evaluation.table import Table, compare, curves_of
from tame.explainers.base import build_explainer
from tame.explainers.setup import layers_for, load_classifier
from tame.files import replacing
from tame.options import CompareOptions, EvaluateOptions
from tame.types import Explainer

logger = logging.getLogger("tame")


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
    curves as ``road.png`` and ``road.pdf``. What is complete is not measured again. All methods explain the same
    classifier object.

    Raises:
        InputError: For anything that cannot be used, for any of the methods, before any work.
    """
    out = Path(options.out or f"comparisons/{options.backbone}")
    contenders = prepare(options, out)
    speaks = True
    for number, (asked, classifier, explainer) in enumerate(contenders, start=1):
        logger.info("%s: method %d of %d", asked.method, number, len(contenders))
        speaks = run(asked, explainer, classifier).speaks
    runs = [read_run(asked.out) for asked, *_ in contenders]
    methods = [asked.method for asked, *_ in contenders]
    reference = options.reference or ("ttame" if "ttame" in methods and len(methods) > 1 else "")
    table = compare(runs, reference, options.seed)
    if speaks:
        published = published_table(options.backbone, methods)
        note = "\nPublished, on 2,000 images of ImageNet's validation set (T-TAME, IEEE Access 2024):\n\n"
        _write(out / "table.md", table.markdown() + (note + published if published else ""))
        _write(out / "table.csv", table.csv())
        _write(out / "table.tex", table.latex())
        if "road" in options.asked_metrics():
            from tame.visualize import road_curves

            road_curves(curves_of(runs), out / "road")
    return Comparison(table, out, speaks)


def prepare(options: CompareOptions, out: Path) -> list[Contender]:
    """Build every method on one classifier, so that one that cannot serve it is refused before any work.

    A method with a checkpoint is written ``lcam_img@FOLDER``.
    """
    asked = [_of_one_method(options, text, out) for text in _split(options.methods)]
    if len({one.out for one in asked}) < len(asked):
        raise InputError(f"expected different methods, got {options.methods!r}")
    first = load_classifier(options, asked[0]).to(resolve_device(options.device))
    contenders = []
    for one in asked:
        layers = layers_for(one, one)
        own = isinstance(layers, list) and tuple(layers) != first.layers  # of another checkpoint
        classifier = first.with_layers(layers) if own else first
        contenders.append(Contender(one, classifier, build_explainer(classifier, one)))
    return contenders


def _split(methods: str) -> list[str]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise InputError("expected --methods separated by commas, got none; see `tame list methods`")
    return names


def _of_one_method(options: CompareOptions, text: str, out: Path) -> EvaluateOptions:
    method, _, checkpoint = text.partition("@")
    common = {field.name: getattr(options, field.name) for field in fields(EvaluateOptions) if field.init}
    folder = out / text.replace("@", "-").replace(":", ".").replace("/", ".")
    return replace(
        EvaluateOptions(**common), method=method, checkpoint=checkpoint or options.checkpoint, out=str(folder)
    )


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
