"""Finished evaluations beside each other: tables, intervals, curves and the HTML report."""

from tame.functional.bootstrap import Interval, paired_bootstrap, standard_error
from tame.reporting.table import Table, build_table

__all__ = ["Interval", "Table", "build_table", "paired_bootstrap", "standard_error"]
