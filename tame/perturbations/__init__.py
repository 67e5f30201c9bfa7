"""Perturbed images and their scores: each image is perturbed and classified once, for all metrics together."""

from tame.perturbations.base import Perturbation
from tame.perturbations.causal import CausalInputs
from tame.perturbations.imputed import ImputedInputs
from tame.perturbations.masked import MaskedInputs
from tame.perturbations.passes import PassRows, PassSettings, Stopwatch
from tame.perturbations.scoring import (
    PlainScores,
    Scores,
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
    "PassSettings",
    "Perturbation",
    "PlainScores",
    "Scores",
    "Stopwatch",
    "UsableMaps",
    "perturbed_scores",
    "plain_scores",
    "usable_maps",
]
