"""Evaluate explanations: resumable runs, several processes, and what they leave on disk.

`tame.evaluation.evaluate` is the public function; the Lightning callbacks are in `tame.callbacks.metrics`, so that
reading a run does not import Lightning.
"""

from tame.evaluation.records import Estimate, Run, Summary, open_run, read_run
from tame.evaluation.request import EvaluationRequest, ImageSelection, MetricSelection, RunSettings
from tame.evaluation.run import Evaluation, run_evaluations

__all__ = [
    "Estimate",
    "Evaluation",
    "EvaluationRequest",
    "ImageSelection",
    "MetricSelection",
    "Run",
    "RunSettings",
    "Summary",
    "open_run",
    "read_run",
    "run_evaluations",
]
