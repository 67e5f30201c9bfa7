"""Measure explanations: run an evaluation, read it back, compare several.

The Lightning callback is in `tame.evaluation.callbacks`, so that reading a table does not import Lightning.
"""

from tame.evaluation.bootstrap import Interval, paired_bootstrap, standard_error
from tame.evaluation.command import evaluate
from tame.evaluation.plan import Plan
from tame.evaluation.records import Estimate, Run, Summary, read_run
from tame.evaluation.run import run_evaluation
from tame.evaluation.table import Table, build_table

__all__ = [
    "Estimate",
    "Interval",
    "Plan",
    "Run",
    "Summary",
    "Table",
    "build_table",
    "evaluate",
    "paired_bootstrap",
    "read_run",
    "run_evaluation",
    "standard_error",
]
