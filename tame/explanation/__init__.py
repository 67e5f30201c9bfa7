"""Explain photographs: one from Python, many from files, with overlays, maps and a manifest."""

from tame.explanation.files import ExplainReport, Failure, bundled_photographs, collect_images, explain_files
from tame.explanation.one import explain
from tame.explanation.result import Explanation

__all__ = [
    "ExplainReport",
    "Explanation",
    "Failure",
    "bundled_photographs",
    "collect_images",
    "explain",
    "explain_files",
]
