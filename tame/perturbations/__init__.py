"""Perturbed images through a classifier: each is made and classified once, and all metrics read the same scores."""

from tame.perturbations.base import Perturbation
from tame.perturbations.causal import CausalInputs
from tame.perturbations.imputed import ImputedInputs
from tame.perturbations.masked import MaskedInputs
from tame.perturbations.scoring import (
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
