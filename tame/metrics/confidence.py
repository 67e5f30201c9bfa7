"""Average Drop, Increase in Confidence and Average Gain as metrics that accumulate over batches and processes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tame.functional.masking import check_keep
from tame.functional.scores import drop, gain, increase
from tame.metrics.base import MeanOfImages
from tame.utils.checks import InputError


class _PlainAndMasked(MeanOfImages):
    """The mean of one value per image that compares its confidences, plain and masked.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1]. It names the metric; the pixels are
            removed before confidences arrive here.
        settings: Further options that change what the metric means.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If ``keep`` is not in (0, 1].
    """

    def __init__(self, keep: float = 1.0, settings: dict[str, object] | None = None, **kwargs: Any) -> None:
        check_keep(keep)
        super().__init__({"keep": float(keep), **(settings or {})}, **kwargs)
        self.keep = keep

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
        self._add(self._values(confidence, masked))


class AverageDrop(_PlainAndMasked):
    """Average Drop (AD), percent: how much confidence is lost when only the explained pixels remain.

    ``AD = 100 / n * sum(max(0, p - p') / p)``, 0..100, lower is better; an image with p = 0 adds 0.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        kwargs: Options of `torchmetrics.Metric`.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018; T-TAME, Section IV.

    Example:
        >>> import torch
        >>> metric = AverageDrop(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    higher_is_better = False

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        return drop(confidence, masked)


class IncreaseInConfidence(_PlainAndMasked):
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
        >>> import torch
        >>> metric = IncreaseInConfidence(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(50., dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, keep: float = 1.0, margin: float = 1e-5, **kwargs: Any) -> None:
        if not margin >= 0:
            raise InputError(f"expected a margin of 0 or more, got {margin}")
        super().__init__(keep, {"margin": float(margin)}, **kwargs)
        self.margin = margin

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        return increase(confidence, masked, self.margin)


class AverageGain(_PlainAndMasked):
    """Average Gain (AG), percent: how much of the missing confidence is won when only the explained pixels remain.

    ``AG = 100 / n * sum(max(0, p' - p) / (1 - p))``, 0..100, higher is better; an image with p = 1 adds 0.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        kwargs: Options of `torchmetrics.Metric`.

    Source: Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", CVIU 2024.

    Example:
        >>> import torch
        >>> metric = AverageGain(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    higher_is_better = True

    def _values(self, confidence: Tensor, masked: Tensor) -> Tensor:
        return gain(confidence, masked)
