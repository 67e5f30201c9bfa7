"""Runs over the same images are compared only where the classifier was given the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finished_runs import GOOD, HALF, make_run
from tame.evaluation.records import ROWS
from tame.reporting.table import build_table
from tame.utils.checks import InputError

PREPROCESSING: dict[str, Any] = {"resize": 256, "crop": 224, "interpolation": "bilinear", "mean": [0.5], "std": [0.5]}


def with_columns(folder: Path, p: float, target: int) -> Path:
    """Change p of the second image, and give all images a target."""
    head, first, second, *rest = (folder / ROWS).read_text().splitlines()
    names, cells = head.split(","), second.split(",")
    cells[names.index("p")] = str(p)
    lines = [f"{head},target", f"{first},3", f"{','.join(cells)},{target}", *(f"{line},3" for line in rest)]
    (folder / ROWS).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("p", "target", "message"),
    [
        (0.5, 4, "another predicted class for 1 of the same images"),
        (0.55, 3, r"other confidences p of the same images: they differ by up to 0.05 \(1.jpg\)"),
        (0.5001, 3, None),  # another device
    ],
)
def test_other_confidences_or_classes_of_the_same_images(
    tmp_path: Path, p: float, target: int, message: str | None
) -> None:
    a = with_columns(make_run(tmp_path / "a", "one", HALF), 0.5, 3)
    b = with_columns(make_run(tmp_path / "b", "two", GOOD), p, target)
    if message is None:
        build_table([a, b])
    else:
        with pytest.raises(InputError, match=message):
            build_table([a, b])


def test_another_preprocessing(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "one", HALF, preprocessing=PREPROCESSING)
    b = make_run(tmp_path / "b", "two", GOOD, preprocessing=PREPROCESSING | {"mean": [0.4], "resize": 224})
    with pytest.raises(InputError, match=r"with resize 224, not 256; mean \[0.4\], not \[0.5\]$"):
        build_table([a, b])
    build_table([a, make_run(tmp_path / "old", "three", GOOD)])  # written by an earlier version
