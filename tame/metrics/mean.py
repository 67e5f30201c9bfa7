"""What all torchmetrics classes of this package share: a mean over images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from tame.metrics.base import Columns, Measure


class MeanOfImages(torchmetrics.Metric):
    """``100 / n * sum`` of one value per image: sums and counts only, so no batch size or process count matters.

    A `MetricCollection` merges metrics whose states have equal names and, after the first batch, equal values. To
    prevent this for metrics of different meaning, the class and its settings are the name of a state that stays 0;
    for the same reason `merge_state` cannot add one to another.

    Args:
        settings: Name and value of every option that changes what the metric means.
        kwargs: Further arguments of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0
    scale = 100.0
    total: Tensor
    count: Tensor

    def __init__(self, settings: Mapping[str, object], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        meaning = ", ".join(f"{name}={value}" for name, value in settings.items())
        self.add_state(f"{type(self).__name__}({meaning})", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        """Add a batch of values, one per image, (B,); in [0, 1] for percentages."""
        self.total += values.sum(dtype=torch.float64)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean, in percent, a float64 scalar; NaN before the first image."""
        return self.scale * self.total / self.count


class MeasureMean(MeanOfImages):
    """The mean of any measure of a metric.

    Args:
        measure: One of `tame.metrics.base.Metric.measures`.
        kwargs: Further arguments of `torchmetrics.Metric`.

    Example:
        >>> from tame.metrics import Deletion
        >>> (measure,) = Deletion(steps=1).measures()
        >>> mean = MeasureMean(measure)
        >>> mean.update({"deletion_0_p": torch.tensor([1.0, 0.5]), "deletion_1_p": torch.tensor([0.0, 0.5])})
        >>> mean.compute()
        tensor(50., dtype=torch.float64)
    """

    def __init__(self, measure: Measure, **kwargs: Any) -> None:
        super().__init__({"measure": measure.name}, **kwargs)
        self.measure = measure
        self.scale = measure.scale

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override] # torchmetrics only reads it
        """Whether higher is better: as the measure says."""
        return self.measure.higher_is_better

    def update(self, columns: Columns) -> None:
        """Add a batch.

        Args:
            columns: The columns of the batch by name, (B,) each.
        """
        self._add(self.measure.score(columns))
