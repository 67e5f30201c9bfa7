"""Finished evaluations side by side: tables, intervals, curves, published numbers and the HTML report."""

from tame.functional.bootstrap import Interval, paired_bootstrap, standard_error
from tame.reporting.results import Table
from tame.reporting.table import build_table

__all__ = ["Interval", "Table", "build_table", "paired_bootstrap", "standard_error"]
