"""Explain images: one in memory, or many files by several methods, with overlays, maps and grids."""

from tame.inference.batch import Classes, NamedExplainer, PreparedImage, explain_batch, prepare_image
from tame.inference.explain import explain
from tame.inference.explain_files import bundled_images, collect_images, explain_files
from tame.inference.grids import class_grid, image_grid
from tame.inference.result import ExplainReport, Explanation, Failure
from tame.inference.write import write_explanations

__all__ = [
    "Classes",
    "ExplainReport",
    "Explanation",
    "Failure",
    "NamedExplainer",
    "PreparedImage",
    "bundled_images",
    "class_grid",
    "collect_images",
    "explain",
    "explain_batch",
    "explain_files",
    "image_grid",
    "prepare_image",
    "write_explanations",
]
