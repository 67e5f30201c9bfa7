"""``tame explain``: pictures of what a classifier sees in image files."""

from __future__ import annotations

from tame.checkpoints.classifier import load_classifier
from tame.cli.command import RESUMES, Arguments, Command, Part
from tame.inference.explain_files import explain_files
from tame.inference.result import ExplainReport
from tame.utils.checks import shown


def run(arguments: Arguments) -> int:
    """Explain the images; print the explained classes and where the pictures are."""
    report = explain_files(**arguments.of(explain_files, load_classifier))
    for line in _classes(report):
        print(line)
    if not report.entries:
        print(f"Nothing was explained: none of {len(report.failures)} images could be read")
        return 1
    grids = list(dict.fromkeys(entry["grid"] for entry in report.entries if "grid" in entry))
    written = ", ".join(["overlays", "maps", *(grids if len(grids) < 4 else [f"{len(grids)} grids"])])
    print(shown(f"{len(report.entries)} explanations: {written} and manifest.json are in {arguments['out']}"))
    return 1 if report.failures else 0


def _classes(report: ExplainReport) -> list[str]:
    """Return a line per image, class and backbone; several methods explain the same classes."""
    several = len({entry["backbone"] for entry in report.entries}) > 1
    lines = [
        f"{entry['file']}: {entry['class_name']} ({entry['target']}) {100 * entry['confidence']:.1f} %"
        + (f" ({entry['backbone']})" if several else "")
        for entry in report.entries
    ]
    return list(dict.fromkeys(map(shown, lines)))


COMMAND = Command(
    run=run,
    kept=RESUMES,
    parts=(Part(explain_files), Part(load_classifier, without=("backbone", "checkpoint"))),
    examples=(
        "tame explain photo.jpg",
        'tame explain photos/ --target "Egyptian cat" --target 281',
        "tame explain photo.jpg --backbone resnet50 --method gradcam,rise --rise.masks 500",
        "tame explain photo.jpg --checkpoint runs/mine --top 3",
    ),
    positional="images",
    repeatable=("target",),
)
