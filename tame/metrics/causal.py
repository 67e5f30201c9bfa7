"""Insertion and Deletion as metrics that accumulate over batches and processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tame.functional.scores import area_under_curve
from tame.metrics.base import MeanOfImages
from tame.utils.checks import InputError


class _CausalAUC(MeanOfImages):
    """The mean area under each image's confidence along equal steps.

    Args:
        steps: Steps between the two ends of the curve, 1 or more.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If ``steps`` is below 1.
    """

    def __init__(self, steps: int = 28, **kwargs: Any) -> None:
        if not steps >= 1:
            raise InputError(f"expected steps of 1 or more, got {steps}")
        super().__init__({"steps": steps}, **kwargs)
        self.steps = steps

    def update(self, confidences: Tensor) -> None:
        """Add a batch.

        Args:
            confidences: p' of the model truth, (steps + 1, B) in [0, 1]; the first row is where the curve starts.

        Raises:
            InputError: If they are not of this shape.
        """
        if confidences.ndim != 2 or len(confidences) != self.steps + 1:
            raise InputError(f"expected confidences of shape ({self.steps + 1}, B), got {tuple(confidences.shape)}")
        self._add(area_under_curve(confidences.double()))  # rounding depends on the batch size


class InsertionAUC(_CausalAUC):
    """Insertion, percent: how soon confidence comes when the most relevant pixels are inserted first.

    ``100 / n * sum(((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S)`` with S steps from the blurred to the plain image,
    0..100, higher is better.

    Args:
        steps: Steps between the two ends of the curve, 1 or more; RISE takes 224.
        kwargs: Options of `torchmetrics.Metric`.

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

    higher_is_better = True


class DeletionAUC(_CausalAUC):
    """Deletion, percent: how long confidence stays when the most relevant pixels are deleted first.

    ``100 / n * sum(((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S)`` with S steps from the plain image to the dataset
    mean, 0..100, lower is better.

    Args:
        steps: Steps between the two ends of the curve, 1 or more; RISE takes 224.
        kwargs: Options of `torchmetrics.Metric`.

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

    higher_is_better = False
