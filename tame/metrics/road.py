"""Remove and Debias (ROAD): what is left of the prediction when relevant or irrelevant pixels are imputed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tame.metrics.base import Columns, Measure, Metric
from tame.metrics.mean import MeanOfImages
from tame.perturbations import ImputedInputs
from tame.perturbations.imputed import NOISE, REMOVES
from tame.perturbations.names import confidence_column, imputed_name, kept_column, percent
from tame.types import RemovalOrder
from tame.utils.checks import InputError

RoadReading = Literal["confidence", "kept"]


class Order(NamedTuple):
    """An order of removal.

    Attributes:
        label: Its name in tables.
        higher_is_better: Whether a higher score is better in this order.
    """

    label: str
    higher_is_better: bool


class Reading(NamedTuple):
    """What ROAD averages over the images.

    Attributes:
        label: Its name in tables.
        column: Names the column of a perturbed input.
    """

    label: str
    column: Callable[[str], str]


ORDERS: dict[RemovalOrder, Order] = {"morf": Order("MoRF", False), "lerf": Order("LeRF", True)}
"""The most relevant first, or the least relevant first."""

READINGS: dict[RoadReading, Reading] = {
    "confidence": Reading("confidence", confidence_column),
    "kept": Reading("accuracy", kept_column),
}
"""The confidence in the predicted class, or whether it is still the top class (accuracy: top-1 unchanged)."""


@dataclass(frozen=True)
class ImputedConfidence(Metric):
    """ROAD: the mean over several shares of removed pixels, both orders of removal and both readings.

    Args:
        removes: Fractions of the pixels to remove, each in (0, 1].
        road_selection: Which pixels are removed, see `tame.perturbations.ImputedInputs`.
        road_space: Where pixels are imputed, see there.
        road_reading: The reading that the preset reports; both are always measured.
        noise: Standard deviation of the noise on imputed pixels.
        seed: Seed of the noise.

    Raises:
        InputError: For fractions or noise out of range.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022.

    Example:
        >>> [measure.title for measure in ImputedConfidence((0.5,)).measures() if measure.in_table]
        ['MoRF confidence', 'MoRF accuracy', 'LeRF confidence', 'LeRF accuracy']
    """

    id: ClassVar[str] = "road"
    title: ClassVar[str] = "ROAD"
    summary: ClassVar[str] = "confidence and accuracy when the most (MoRF) or least (LeRF) relevant pixels are imputed"
    paper: ClassVar[str | None] = "Rong et al., ICML 2022"

    removes: tuple[float, ...] = REMOVES
    road_selection: Literal["exact", "percentile"] = "exact"
    road_space: Literal["image", "network"] = "image"
    road_reading: RoadReading = "confidence"
    noise: float = NOISE
    seed: int = 0

    def perturbation(self) -> ImputedInputs:
        """Return the imputation of the images."""
        return ImputedInputs(self.removes, self.road_selection, self.road_space, self.noise, self.seed)

    def measures(self) -> list[Measure]:
        """Return the means over all shares, each followed by the single shares, which tables do not show."""
        return [
            measure
            for order in ORDERS
            for reading in READINGS
            for measure in (
                self._measure(order, reading, self.removes, in_table=True),
                *(self._measure(order, reading, [remove], in_table=False) for remove in self.removes),
            )
        ]

    def must_agree(self) -> tuple[str, ...]:
        """Return all settings but the fractions, which name measures, and the reading, as both are measured."""
        return "road_selection", "road_space", "noise", "seed"

    def _measure(
        self, order: RemovalOrder, reading: RoadReading, removes: Sequence[float], *, in_table: bool
    ) -> Measure:
        (label, higher_is_better), (reading_label, column) = ORDERS[order], READINGS[reading]
        part = "" if in_table else percent(removes[0])
        return Measure(
            name=f"road/{order}_{reading}" + (f"_{part}" if part else ""),
            title=f"{label} {reading_label}" + (f" {part} %" if part else ""),
            group=self.id,
            higher_is_better=higher_is_better,
            in_table=in_table,
            score=partial(_mean, names=[column(imputed_name(order, remove)) for remove in removes]),
        )


def _mean(columns: Columns, names: Sequence[str]) -> Tensor:
    """Return the mean of several columns for each image."""
    return reduce(torch.add, [columns[name].double() for name in names]) / len(names)


class ROAD(MeanOfImages):
    """Remove and Debias (ROAD) at one share of removed pixels, percent.

    ``ROAD = 100 / n * sum(p')``, or ``100 / n * count(kept)``: the accuracy, with the prediction on the plain image as
    the label. 0..100; lower is better when the most relevant pixels are removed first (MoRF), higher is better when
    the least relevant are (LeRF). The score of the paper is the mean over several shares of removed pixels.

    Args:
        order: Which pixels were removed first: the most (``morf``) or the least relevant (``lerf``).
        remove: Fraction of the pixels that were removed, in (0, 1]. Like ``order`` it only names the metric: images are
            imputed and classified before.
        reading: What is averaged: the ``confidence`` in the predicted class, or whether it was ``kept`` as the top
            class.
        kwargs: Further arguments of `torchmetrics.Metric`.

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
        if order not in ORDERS:
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
        return ORDERS[self.order].higher_is_better

    def update(self, imputed: Tensor, kept: Tensor) -> None:
        """Add a batch.

        Args:
            imputed: p' of the predicted class on the imputed images, (B,) in [0, 1].
            kept: Whether the predicted class is still the top class, bool (B,).

        Raises:
            InputError: If the two are not one-dimensional and equally long, or ``kept`` is not bool.
        """
        if imputed.ndim != 1 or imputed.shape != kept.shape or kept.dtype != torch.bool:
            raise InputError(
                "expected confidences and a bool kept of shapes (B,) and (B,), "
                f"got {tuple(imputed.shape)} and {tuple(kept.shape)} {kept.dtype}"
            )
        self._add(imputed if self.reading == "confidence" else kept)
