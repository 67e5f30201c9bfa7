"""``tame compare``: several explanation methods on one classifier."""

from __future__ import annotations

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import RESUMES, Arguments, Command, Part
from tame.cli.shared import learned_checkpoint
from tame.evaluation.evaluate import evaluate
from tame.reporting.compare import compare
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Compare the methods; print the table and where it is."""
    checkpoint = learned_checkpoint(arguments["methods"], arguments["checkpoint"])
    classifier = load_classifier(**arguments.of(load_classifier) | {"checkpoint": checkpoint})
    found = compare(classifier=classifier, **arguments.of(compare, evaluate))
    if found.attrs["main_process"]:
        print(found.attrs["table"])
        print(shown(f"Tables, curves and the runs are in {found.attrs['folder']}"))
    return 0


COMMAND = Command(
    run=run,
    kept=RESUMES,
    parts=(Part(compare), Part(evaluate, without=("explainers", "maps")), Part(load_classifier)),
    examples=(
        "tame compare --data photos/ --methods gradcam,rise,ttame@runs/mine --rise.masks 500",
        "tame compare --data IMAGENET --metrics ad-ic,road --limit-images 2000 --report report/",
    ),
)
