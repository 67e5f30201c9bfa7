"""``tame evaluate``: the metrics of one explanation method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import RESUMES, Arguments, Command, Part
from tame.cli.shared import learned_checkpoint
from tame.evaluation.evaluate import evaluate
from tame.evaluation.records import read_run
from tame.explainers import build_explainer
from tame.reporting.table import table
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Evaluate the method; print its table, the classifier's accuracy and where the rows are."""
    checkpoint = learned_checkpoint([arguments["method"]], arguments["checkpoint"])
    classifier = load_classifier(**arguments.of(load_classifier) | {"checkpoint": checkpoint})
    found = evaluate(arguments["method"], classifier, **arguments.of(evaluate))
    if found.attrs["main_process"]:
        (folder,) = found.attrs["folders"].values()
        print(table([folder]))
        print(_classifier_and_time(read_run(folder).attrs["summary"]))
        print(shown(f"A row per image and the summary are in {folder}"))
    return 0


def _classifier_and_time(summary: Mapping[str, Any]) -> str:
    """Return the classifier's accuracy, and where the time went."""
    parts = [f"{name} accuracy {value:.2f} %" for name, value in summary["accuracy"].items()]
    seconds = (f"{summary['cost'][f'seconds_{name}']:.3g} to {name}" for name in ("explain", "perturb", "classify"))
    return "; ".join([*parts, f"seconds per image: {', '.join(seconds)}"])


COMMAND = Command(
    run=run,
    kept=RESUMES,
    parts=(Part(evaluate, without=("explainers",)), Part(build_explainer, only=("method",)), Part(load_classifier)),
    examples=(
        "tame evaluate --data photos/ --checkpoint runs/mine",
        "tame evaluate --data IMAGENET --method rise --rise.masks 4000 --metrics ad-ic,road --limit-images 2000",
        "tame evaluate --data photos/ --maps my_maps/ --out evaluations/mine",
    ),
)
