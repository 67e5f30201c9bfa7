"""Insertion and Deletion: hand values, accumulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tame.metrics import DeletionAUC, InsertionAUC
from tame.utils.checks import InputError

BOTH = pytest.mark.parametrize("make", [InsertionAUC, DeletionAUC])
Make = type[InsertionAUC] | type[DeletionAUC]


def curves(count: int = 67, steps: int = 28) -> Tensor:
    return torch.rand(steps + 1, count, generator=torch.Generator().manual_seed(0))


@BOTH
def test_hand_values(make: Make) -> None:
    """Areas 1/4, 5/8, 0 and 1."""
    metric = make(steps=2)
    metric.update(torch.tensor([[1.0, 0.5, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
    assert metric.compute().item() == 100 * (0.25 + 0.625 + 0 + 1) / 4


@BOTH
def test_literal_twin(make: Make) -> None:
    metric, confidences = make(), curves()
    metric.update(confidences)
    total = 0.0
    for curve in confidences.T.tolist():
        for left, right in zip(curve[:-1], curve[1:], strict=True):
            total += (left + right) / 2 * (1 / 28)
    assert metric.compute().item() == pytest.approx(100 * total / 67, abs=1e-11)


@BOTH
@pytest.mark.parametrize("size", [1, 7, 32])
def test_batch_size_does_not_matter(make: Make, size: int) -> None:
    """Nor does the layout in memory; float32 sums over the steps would differ by 1e-7."""
    whole, parts = make(), make()
    whole.update(curves())
    for part in curves().split(size, dim=1):
        parts.update(part.contiguous())
    assert parts.compute().item() == pytest.approx(whole.compute().item(), abs=1e-11)


def test_how_to_read_them() -> None:
    assert InsertionAUC().higher_is_better is True
    assert DeletionAUC().higher_is_better is False


@BOTH
def test_nan_is_not_hidden(make: Make) -> None:
    metric = make(steps=1)
    metric.update(torch.tensor([[0.5, 0.5], [0.5, float("nan")]]))
    assert math.isnan(metric.compute().item())


@BOTH
def test_errors(make: Make) -> None:
    with pytest.raises(InputError, match="expected steps of 1 or more, got 0"):
        make(steps=0)
    with pytest.raises(InputError, match=r"expected confidences of shape \(29, B\), got \(28, 4\)"):
        make().update(torch.zeros(28, 4))
    with pytest.raises(InputError, match=r"expected confidences of shape \(4, B\), got \(4,\)"):
        make(steps=3).update(torch.zeros(4))
