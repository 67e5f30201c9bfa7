"""Average Drop and Increase in Confidence as metrics that accumulate over batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tame.checks import InputError
from tame.functional.masking import check_keep
from tame.functional.scores import drop, increase


class _MeanOfImages(Metric):
    """``100 / n * sum`` of one value per image: sums and counts only, so no batch size or process count matters.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1]. It names the metric; the pixels are
            removed before confidences arrive here.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If ``keep`` is not in (0, 1].
    """

    full_state_update = False
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0
    total: Tensor
    count: Tensor

    def __init__(self, keep: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_keep(keep)
        self.keep = keep
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        """Return one value in [0, 1] per image, (B,)."""
        raise NotImplementedError

    def update(self, confidence: Tensor, masked: Tensor) -> None:
        """Add a batch.

        Args:
            confidence: p on the plain images, (B,) in [0, 1].
            masked: p' on the masked images, (B,) in [0, 1].

        Raises:
            InputError: If the two are not one-dimensional and equally long.
        """
        if confidence.ndim != 1 or confidence.shape != masked.shape:
            raise InputError(
                f"expected confidences of shapes (B,) and (B,), got {tuple(confidence.shape)} and {tuple(masked.shape)}"
            )
        self.total += self._values(confidence, masked).sum(dtype=torch.float64)
        self.count += len(confidence)

    def compute(self) -> Tensor:
        """Return the percentage, a float64 scalar; NaN before the first image."""
        return 100 * self.total / self.count


class AverageDrop(_MeanOfImages):
    """Average Drop (AD), percent: how much confidence is lost when only the explained pixels remain.

    ``AD = 100 / n * sum(max(0, p - p') / p)``, 0..100, lower is better; an image with p = 0 adds 0.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        kwargs: Options of `torchmetrics.Metric`.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018; T-TAME, Section IV.

    Example:
        >>> metric = AverageDrop(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    higher_is_better = False

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        return drop(confidence, masked)


class IncreaseInConfidence(_MeanOfImages):
    """Increase in Confidence (IC), percent of images that gain confidence when only the explained pixels remain.

    ``IC = 100 / n * count(p' - p > margin)``, 0..100, higher is better.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        margin: What counts as a gain: 0 (a strict comparison, as published) or 1e-5 (above float32's rounding).
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If ``margin`` is negative.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018; T-TAME, Section IV.

    Example:
        >>> metric = IncreaseInConfidence(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(50., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, keep: float = 1.0, margin: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(keep, **kwargs)
        if not margin >= 0:
            raise InputError(f"expected a margin of 0 or more, got {margin}")
        self.margin = margin
        # A MetricCollection merges metrics whose states are equal after the first batch. The margin is a state so
        # that an AD and an IC, or ICs of two margins, never are.
        self.add_state("margin_of", torch.tensor(margin, dtype=torch.float64), dist_reduce_fx="mean")

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        return increase(confidence, masked, self.margin)
