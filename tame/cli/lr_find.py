"""``tame lr-find``: a learning rate for a training run."""

from __future__ import annotations

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import Arguments, Command, Part
from tame.training.lr_find import WITHOUT, lr_find
from tame.training.train import train
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Test learning rates; print the suggested one and where the curve is."""
    found = lr_find(load_classifier(**arguments.of(load_classifier)), **arguments.of(train, lr_find))
    if found.suggestion is None:
        print("No learning rate can be suggested: the loss does not fall clearly between these rates. ", end="")
        print("Look at the curve, or test another range or more --steps.")
    else:
        print(f"Suggested learning rate: --lr {found.suggestion:.2g}")
    print(shown(f"The curve is in {found.folder}: lr_find.png and lr_find.csv"))
    return 0


COMMAND = Command(
    run=run,
    parts=(Part(lr_find), Part(train, without=WITHOUT), Part(load_classifier, without=("checkpoint",))),
    ignored=tuple(name for name in WITHOUT if name != "out"),
    examples=(
        "tame lr-find --data photos/",
        "tame lr-find --config runs/mine/config.json --out runs/mine-lr-find",
        "tame lr-find --backbone resnet50 --data photos/ --min-lr 1e-4 --max-lr 1",
    ),
)
