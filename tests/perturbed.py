"""Images, maps and scores for the tests of perturbations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.perturbations import (
    CausalInputs,
    ImputedInputs,
    MaskedInputs,
    PassSettings,
    Perturbation,
    Scores,
    perturbed_scores,
)


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 5, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def everything() -> list[Perturbation]:
    """Return perturbations of 6 + 4 + 6 names."""
    return [
        MaskedInputs(["minmax", "rank"], [1.0, 0.5, 0.15]),
        ImputedInputs([0.1, 0.7]),
        CausalInputs(["insertion", "deletion"], 2),
    ]


def scores(classifier: FrozenClassifier, positions: range = range(5), **options: Any) -> Scores:
    rows = list(positions)
    given = images()[rows]
    targets = classifier.logits(given).argmax(1)
    perturbations = options.pop("perturbations", None) or everything()
    maps = options.pop("maps", some_maps())[rows]
    passes = PassSettings(**options)
    return perturbed_scores(classifier, given, maps, targets, torch.tensor(rows), perturbations, passes)
