"""``tame convert``: the authors' checkpoints as ours."""

from __future__ import annotations

from tame.checkpoints.convert import convert_checkpoint
from tame.checkpoints.native import read_metadata
from tame.cli.command import Arguments, Command, Part
from tame.cli.shared import explain_with
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Convert the file; print where the explainer is, and the command that uses it."""
    file = arguments.one("file", "tame convert vit_b_16.ckpt")
    folder = convert_checkpoint(**arguments.of(convert_checkpoint) | {"file": file})
    backbone = arguments["backbone"] or read_metadata(folder)["backbone"]
    print(shown(f"The explainer is in {folder}; use it with: {explain_with(folder, {'backbone': backbone})}"))
    return 0


COMMAND = Command(
    run=run,
    parts=(Part(convert_checkpoint),),
    examples=("tame convert vit_b_16.ckpt", "tame convert snapshot.pt --backbone vgg16 --out runs/authors"),
    positional="file",
)
