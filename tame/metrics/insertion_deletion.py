"""Insertion and Deletion: the area under the curve of the confidence while relevant pixels are inserted or deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tame.functional.scores import area_under_curve
from tame.metrics.base import Columns, Measure, Metric
from tame.metrics.mean import MeanOfImages
from tame.perturbations import CausalInputs
from tame.perturbations.causal import STEPS
from tame.perturbations.names import causal_name, confidence_column
from tame.types import CausalOrder
from tame.utils.checks import InputError


@dataclass(frozen=True)
class _Causal(Metric):
    """The area under each image's confidence along equal steps, of one kind."""

    kind: ClassVar[CausalOrder]
    higher_is_better: ClassVar[bool]
    paper: ClassVar[str | None] = "Petsiuk et al., BMVC 2018"

    steps: int = STEPS

    def perturbation(self) -> CausalInputs:
        """Return the images of all steps."""
        return CausalInputs([self.kind], self.steps)

    def measures(self) -> list[Measure]:
        """Return the area."""
        return [Measure(f"{self.id}/AUC", self.title, self.id, self.higher_is_better, True, self._area)]

    def _area(self, columns: Columns) -> Tensor:
        names = [causal_name(self.kind, step) for step in range(self.steps + 1)]
        return area_under_curve(torch.stack([columns[confidence_column(name)] for name in names]).double())


@dataclass(frozen=True)
class Insertion(_Causal):
    """Insertion, see `InsertionAUC`.

    Args:
        steps: Steps between the two ends of the curve.

    Raises:
        InputError: If ``steps`` is below 1.
    """

    id: ClassVar[str] = "insertion"
    title: ClassVar[str] = "Insertion"
    summary: ClassVar[str] = "mean confidence while the most relevant pixels are inserted into a blurred image"
    kind: ClassVar[CausalOrder] = "insertion"
    higher_is_better: ClassVar[bool] = True


@dataclass(frozen=True)
class Deletion(_Causal):
    """Deletion, see `DeletionAUC`.

    Args:
        steps: Steps between the two ends of the curve.

    Raises:
        InputError: If ``steps`` is below 1.
    """

    id: ClassVar[str] = "deletion"
    title: ClassVar[str] = "Deletion"
    summary: ClassVar[str] = "mean confidence while the most relevant pixels are replaced by the mean colour"
    kind: ClassVar[CausalOrder] = "deletion"
    higher_is_better: ClassVar[bool] = False


class _CausalAUC(MeanOfImages):
    """The mean area under each image's confidence along equal steps.

    Args:
        steps: Steps between the two ends of the curve, 1 or more.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        InputError: If ``steps`` is below 1.
    """

    def __init__(self, steps: int = STEPS, **kwargs: Any) -> None:
        if not steps >= 1:
            raise InputError(f"expected steps of 1 or more, got {steps}")
        super().__init__({"steps": steps}, **kwargs)
        self.steps = steps

    def update(self, confidences: Tensor) -> None:
        """Add a batch.

        Args:
            confidences: p' of the predicted class, (steps + 1, B) in [0, 1]; the first row is the start of the curve.

        Raises:
            InputError: If they are not of this shape.
        """
        if confidences.ndim != 2 or len(confidences) != self.steps + 1:
            raise InputError(f"expected confidences of shape ({self.steps + 1}, B), got {tuple(confidences.shape)}")
        self._add(area_under_curve(confidences.double()))  # float32 sums would depend on the batch size


class InsertionAUC(_CausalAUC):
    """Insertion, percent: the mean confidence while pixels are inserted, the most relevant first.

    ``100 / n * sum(((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S)`` with S steps from the blurred to the plain image,
    0..100, higher is better.

    Args:
        steps: Steps between the two ends of the curve, 1 or more; 224 in RISE.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        InputError: If ``steps`` is below 1.

    Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Example:
        >>> import torch
        >>> metric = InsertionAUC(steps=2)
        >>> metric.update(torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]))
        >>> metric.compute()
        tensor(62.5000, dtype=torch.float64)
    """

    higher_is_better = Insertion.higher_is_better


class DeletionAUC(_CausalAUC):
    """Deletion, percent: the mean confidence while pixels are deleted, the most relevant first.

    ``100 / n * sum(((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S)`` with S steps from the plain image to the dataset
    mean, 0..100, lower is better.

    Args:
        steps: Steps between the two ends of the curve, 1 or more; 224 in RISE.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        InputError: If ``steps`` is below 1.

    Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Example:
        >>> import torch
        >>> metric = DeletionAUC(steps=2)
        >>> metric.update(torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]]))
        >>> metric.compute()
        tensor(37.5000, dtype=torch.float64)
    """

    higher_is_better = Deletion.higher_is_better
