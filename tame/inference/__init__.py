"""Explain photographs: one from Python, many from files, by one method or several, with overlays, maps and grids."""

from tame.inference.files import (
    ExplainReport,
    Failure,
    bundled_photographs,
    collect_images,
    compare_files,
    explain_files,
)
from tame.inference.grids import class_grid, image_grid
from tame.inference.one import Method, explain
from tame.inference.result import Explanation

__all__ = [
    "ExplainReport",
    "Explanation",
    "Failure",
    "Method",
    "bundled_photographs",
    "class_grid",
    "collect_images",
    "compare_files",
    "explain",
    "explain_files",
    "image_grid",
]
