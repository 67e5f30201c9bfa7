"""Average Drop, Increase in Confidence and Average Gain: confidence on masked images compared with plain images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from tame.functional.masking import check_keep
from tame.functional.scores import drop, gain, increase
from tame.metrics.base import Columns, Measure, Metric
from tame.metrics.mean import MeanOfImages
from tame.perturbations import MaskedInputs
from tame.perturbations.names import confidence_column, masked_name, percent
from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError

KEEPS = (1.0, 0.5, 0.15)
MARGIN = 1e-5
"""Margin of Increase in Confidence above float32's rounding."""


class Score(NamedTuple):
    """A value per image that compares its confidences, plain and masked.

    Attributes:
        symbol: Its name in measures and tables.
        higher_is_better: Whether higher values are better.
        in_table: Whether tables show it.
        values: Computes it (B,) in [0, 1] from p (B,), p' (B,) and the margin of Increase in Confidence.
    """

    symbol: str
    higher_is_better: bool
    in_table: bool
    values: Callable[[Tensor, Tensor, float], Tensor]


DROP = Score("AD", False, True, lambda confidence, masked, _margin: drop(confidence, masked))
INCREASE = Score("IC", True, True, increase)
GAIN = Score("AG", True, False, lambda confidence, masked, _margin: gain(confidence, masked))


@dataclass(frozen=True)
class MaskedConfidence(Metric):
    """AD, IC and AG of masked images, for every scaling of the maps and every share of kept pixels.

    Args:
        scalings: Scalings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.
        ic_margin: p' must exceed p by more than this to count as an increase.

    Raises:
        InputError: For scalings, keeps or a margin that cannot be used.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018; T-TAME, Section IV.

    Example:
        >>> [measure.name for measure in MaskedConfidence(("rank",), (0.15,)).measures()]
        ['rank/AD_15', 'rank/IC_15', 'rank/AG_15']
    """

    id: ClassVar[str] = "ad-ic"
    title: ClassVar[str] = "Average Drop, Increase in Confidence"
    summary: ClassVar[str] = "change of the confidence when only the most relevant pixels are kept"
    paper: ClassVar[str | None] = "Chattopadhay et al., WACV 2018"

    scalings: tuple[MapScaling, ...] = ("minmax", "rank")
    keeps: tuple[float, ...] = KEEPS
    masking: MaskingKind | None = None
    ic_margin: float = MARGIN

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        _check_margin(self.ic_margin)

    def perturbation(self) -> MaskedInputs:
        """Return the masking of the images."""
        return MaskedInputs(self.scalings, self.keeps, self.masking)

    def measures(self) -> list[Measure]:
        """Return AD, IC and AG, scaling by scaling."""
        return [
            Measure(
                name=f"{scaling}/{score.symbol}_{percent(keep)}",
                title=f"{score.symbol} {percent(keep)} % ({scaling})",
                group=scaling,
                higher_is_better=score.higher_is_better,
                in_table=score.in_table,
                score=self._of_columns(score, confidence_column(masked_name(scaling, keep))),
            )
            for scaling in self.scalings
            for keep in self.keeps
            for score in (DROP, INCREASE, GAIN)
        ]

    def must_agree(self) -> tuple[str, ...]:
        """Return the kind of masking and the margin."""
        return "masking", "ic_margin"

    def _of_columns(self, score: Score, masked: str) -> Callable[[Columns], Tensor]:
        return lambda columns: score.values(columns["p"], columns[masked], self.ic_margin)


class _PlainAndMasked(MeanOfImages):
    """The mean of one value per image that compares its confidences, plain and masked.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1]. It only names the metric: images are
            masked and classified before.
        settings: Further options that change what the metric means.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        InputError: If ``keep`` is not in (0, 1].
    """

    score: ClassVar[Score]
    margin = 0.0

    def __init__(self, keep: float = 1.0, settings: dict[str, object] | None = None, **kwargs: Any) -> None:
        check_keep(keep)
        super().__init__({"keep": float(keep), **(settings or {})}, **kwargs)
        self.keep = keep

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
        self._add(self.score.values(confidence, masked, self.margin))


class AverageDrop(_PlainAndMasked):
    """Average Drop (AD), percent: the confidence that is lost when only the explained pixels remain.

    ``AD = 100 / n * sum(max(0, p - p') / p)``, 0..100, lower is better; an image with p = 0 adds 0.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        kwargs: Further arguments of `torchmetrics.Metric`.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018; T-TAME, Section IV.

    Example:
        >>> import torch
        >>> metric = AverageDrop(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    score = DROP
    higher_is_better = DROP.higher_is_better


class IncreaseInConfidence(_PlainAndMasked):
    """Increase in Confidence (IC), percent of images that gain confidence when only the explained pixels remain.

    ``IC = 100 / n * count(p' - p > margin)``, 0..100, higher is better.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        margin: What counts as a gain: 0 (a strict comparison, as in the paper) or 1e-5 (above float32's rounding).
        kwargs: Further arguments of `torchmetrics.Metric`.

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

    score = INCREASE
    higher_is_better = INCREASE.higher_is_better

    def __init__(self, keep: float = 1.0, margin: float = MARGIN, **kwargs: Any) -> None:
        _check_margin(margin)
        super().__init__(keep, {"margin": float(margin)}, **kwargs)
        self.margin = margin


class AverageGain(_PlainAndMasked):
    """Average Gain (AG), percent: the missing confidence that is gained when only the explained pixels remain.

    ``AG = 100 / n * sum(max(0, p' - p) / (1 - p))``, 0..100, higher is better; an image with p = 1 adds 0.

    Args:
        keep: Fraction of the pixels that the masked images kept, in (0, 1].
        kwargs: Further arguments of `torchmetrics.Metric`.

    Source: Zhang et al., "Opti-CAM: Optimizing saliency maps for interpretability", CVIU 2024.

    Example:
        >>> import torch
        >>> metric = AverageGain(keep=0.5)
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        >>> metric.compute()
        tensor(25., dtype=torch.float64)
    """

    score = GAIN
    higher_is_better = GAIN.higher_is_better


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise InputError(f"expected a margin of 0 or more, got {margin}")
