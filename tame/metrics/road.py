"""Remove and Debias (ROAD) as a metric that accumulates over batches and processes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tame.metrics.base import MeanOfImages
from tame.types import RemovalOrder
from tame.utils.checks import InputError

RoadReading = Literal["confidence", "kept"]


class ROAD(MeanOfImages):
    """Remove and Debias (ROAD) at one share of removed pixels, percent: what is left when these are imputed.

    ``ROAD = 100 / n * sum(p')``, or ``100 / n * count(kept)``: the share of images whose class survives. 0..100; when
    the most relevant pixels go first (MoRF) lower is better, when the least relevant do (LeRF) higher is better. The
    published score is the mean over several shares of removed pixels.

    Args:
        order: Which pixels were removed first: the most (``morf``) or the least relevant (``lerf``).
        remove: Fraction of the pixels that were removed, in (0, 1]. Like ``order`` it names the metric; the pixels are
            imputed before confidences arrive here.
        reading: What is averaged: the ``confidence`` of the model truth, or whether it was ``kept`` as the top class.
        kwargs: Options of `torchmetrics.Metric`.

    Raises:
        InputError: If ``remove`` is not in (0, 1], or for an unknown order or reading.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022.

    Example:
        >>> metric = ROAD("morf", remove=0.1)
        >>> metric.update(torch.tensor([0.5, 0.25]), torch.tensor([True, False]))
        >>> metric.compute()
        tensor(37.5000, dtype=torch.float64)
        >>> metric.higher_is_better
        False
    """

    def __init__(self, order: RemovalOrder, remove: float, reading: RoadReading = "confidence", **kwargs: Any) -> None:
        if order not in get_args(RemovalOrder):
            raise InputError(f"expected the order morf or lerf, got {order!r}")
        if not 0 < remove <= 1:
            raise InputError(f"expected remove, a fraction of the pixels, in (0, 1], got {remove}")
        if reading not in get_args(RoadReading):
            raise InputError(f"expected the reading confidence or kept, got {reading!r}")
        super().__init__({"order": order, "remove": float(remove), "reading": reading}, **kwargs)
        self.order = order
        self.remove = remove
        self.reading = reading

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override] # torchmetrics only reads it
        """Whether higher is better: with ``lerf``."""
        return self.order == "lerf"

    def update(self, imputed: Tensor, kept: Tensor) -> None:
        """Add a batch.

        Args:
            imputed: p' of the model truth on the imputed images, (B,) in [0, 1].
            kept: Whether the model truth is still the top class, bool (B,).

        Raises:
            InputError: If the two are not one-dimensional and equally long, or ``kept`` is not bool.
        """
        if imputed.ndim != 1 or imputed.shape != kept.shape or kept.dtype != torch.bool:
            raise InputError(
                "expected confidences and a bool kept of shapes (B,) and (B,), "
                f"got {tuple(imputed.shape)} and {tuple(kept.shape)} {kept.dtype}"
            )
        self._add(imputed if self.reading == "confidence" else kept)
