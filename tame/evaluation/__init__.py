"""Measure explanations: run an evaluation, read it back, compare several.

The Lightning callback is in `tame.callbacks.metrics`, so that reading a table does not import Lightning.
"""

from tame.evaluation.plan import Plan
from tame.evaluation.records import Estimate, Run, Summary, read_run
from tame.evaluation.run import run_evaluation

__all__ = [
    "Estimate",
    "Plan",
    "Run",
    "Summary",
    "read_run",
    "run_evaluation",
]
