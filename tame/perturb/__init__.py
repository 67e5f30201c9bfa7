"""Perturbed images through a classifier: each is made and classified once, and all metrics read the same scores."""

from tame.perturb.base import Perturbation
from tame.perturb.causal import CausalInputs
from tame.perturb.imputed import ImputedInputs
from tame.perturb.masked import MaskedInputs
from tame.perturb.passes import (
    PassRows,
    PlainScores,
    Scores,
    Stopwatch,
    UsableMaps,
    perturbed_scores,
    plain_scores,
    usable_maps,
)

__all__ = [
    "CausalInputs",
    "ImputedInputs",
    "MaskedInputs",
    "PassRows",
    "Perturbation",
    "PlainScores",
    "Scores",
    "Stopwatch",
    "UsableMaps",
    "perturbed_scores",
    "plain_scores",
    "usable_maps",
]
