"""What all metrics of explanations share: a mean over images, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOfImages(Metric):
    """``100 / n * sum`` of one value per image: sums and counts only, so no batch size or process count matters.

    A `MetricCollection` merges metrics whose states have equal names and, after the first batch, equal values. Here
    the class and its settings are the name of a state that stays 0, so that metrics of different meaning never are
    merged, nor can `merge_state` add one to another.

    Args:
        settings: Name and value of every option that changes what the metric means.
        kwargs: Options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0
    total: Tensor
    count: Tensor

    def __init__(self, settings: Mapping[str, object], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        meaning = ", ".join(f"{name}={value}" for name, value in settings.items())
        self.add_state(f"{type(self).__name__}({meaning})", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        """Add a batch of values in [0, 1], one per image, (B,)."""
        self.total += values.sum(dtype=torch.float64)
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the percentage, a float64 scalar; NaN before the first image."""
        return 100 * self.total / self.count
