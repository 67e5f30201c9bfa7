"""``tame train``: an attention mechanism that explains a classifier."""

from __future__ import annotations

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import RESUMES, Arguments, Command, Part
from tame.cli.shared import explain_with
from tame.training.train import train
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Train; print where the explainer is, and the command that uses it."""
    classifier = load_classifier(**arguments.of(load_classifier))
    trained = train(classifier, **arguments.of(train))
    folder = trained.folder
    print(shown(f"The explainer is in {folder}; use it with: {explain_with(folder, classifier.source)}"))
    return 0


COMMAND = Command(
    run=run,
    kept=RESUMES,
    parts=(Part(train), Part(load_classifier, without=("checkpoint",))),
    examples=(
        "tame train --data photos/ --out runs/mine",
        "tame train --backbone resnet50 --data IMAGENET --lists datalist --preset released",
        "tame train --config runs/mine/config.json --epochs 4 --out runs/longer",
    ),
)
