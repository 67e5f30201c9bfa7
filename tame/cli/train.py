"""``tame train``: an attention mechanism that explains a classifier."""

from __future__ import annotations

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import RESUMES, Arguments, Command, Part
from tame.cli.shared import explain_with
from tame.training.folder import is_main
from tame.training.save import TrainedRun
from tame.training.train import train
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Train; print where the explainer is, and the command that uses it."""
    classifier = load_classifier(**arguments.of(load_classifier))
    trained = train(classifier, **arguments.of(train))
    if not is_main():  # another process of the same run says it, when all is written
        return 0
    for line in _measured(trained):
        print(line)
    folder = trained.folder
    print(shown(f"The explainer is in {folder}; use it with: {explain_with(folder, classifier.source)}"))
    return 0


def _measured(run: TrainedRun) -> list[str]:
    """Return the table of what was validated: the initialisation, and the epoch that the explainer is of."""
    before, after = run.initial_metrics, run.metrics
    if not before or not after:
        return []
    rows = [("loss", f"{before['val/total']:.4f}", f"{after['val/total']:.4f}")]
    for scaling in ("minmax", "rank"):
        for score in ("AD", "IC"):
            kept = [name for name in after if name.startswith(f"val/{scaling}/{score}_")]
            shares = "/".join(name.rpartition("_")[2] for name in kept)
            old, new = (" / ".join(f"{measured[name]:.1f}" for name in kept) for measured in (before, after))
            rows.append((f"{score} at {shares} % of the pixels ({scaling})", old, new))
    rows.insert(0, ("validation images", "initialisation", f"after epoch {run.epoch}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]


COMMAND = Command(
    run=run,
    kept=RESUMES,
    parts=(Part(train, without=("normalised",)), Part(load_classifier, without=("checkpoint",))),
    examples=(
        "tame train --data photos/ --out runs/mine",
        "tame train --backbone resnet50 --data IMAGENET --lists datalist --preset released",
        "tame train --config runs/mine/config.json --epochs 4 --out runs/longer",
    ),
)
