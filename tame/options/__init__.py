"""What every command can be told: typed options, free of heavy imports.

The same word means the same in every command. An empty string means "the default, worked out later".
"""

from tame.options.common import CommonOptions, DataOptions, MethodOptions
from tame.options.measure import CompareOptions, EvaluateOptions, TableOptions
from tame.options.show import ExplainOptions, ImportOptions, InspectOptions, ListOptions
from tame.options.train import LrFindOptions, TrainOptions

__all__ = [
    "CommonOptions",
    "CompareOptions",
    "DataOptions",
    "EvaluateOptions",
    "ExplainOptions",
    "ImportOptions",
    "InspectOptions",
    "ListOptions",
    "LrFindOptions",
    "MethodOptions",
    "TableOptions",
    "TrainOptions",
]
