"""``tame inspect``: the layers of a classifier."""

from __future__ import annotations

from tame.backbones.inspect_classifier import inspect_classifier
from tame.checkpoints.classifier import load_classifier
from tame.classifier.probing.overrides import DESCRIPTION
from tame.cli.command import Arguments, Command, Part


def run(arguments: Arguments) -> int:
    """Print the layers, and the proposed ones as an option to paste."""
    model = arguments.one("model", "tame inspect resnet50")
    table = inspect_classifier(**arguments.of(inspect_classifier, load_classifier) | {"model": model})
    print(table)
    if table.proposed:
        print(f"--layers {','.join(table.proposed)}")
    return 0


COMMAND = Command(
    run=run,
    parts=(Part(inspect_classifier), Part(load_classifier, only=DESCRIPTION)),
    examples=("tame inspect resnet50", "tame inspect my_networks:build --input-size 48x64 --all"),
    positional="model",
)
