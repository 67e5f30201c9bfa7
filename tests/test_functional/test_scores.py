"""Confidences to drops and increases: hand values and edges."""

from __future__ import annotations

import math

import torch

from tame.functional.scores import drop, increase


def test_drop_by_hand() -> None:
    p = torch.tensor([0.5, 0.5, 1.0, 0.4])
    masked = torch.tensor([0.25, 0.75, 0.0, 0.4])
    assert drop(p, masked).tolist() == [0.5, 0.0, 1.0, 0.0]


def test_drop_of_no_confidence_is_zero() -> None:
    assert drop(torch.zeros(2), torch.tensor([0.0, 0.5])).tolist() == [0.0, 0.0]


def test_drop_of_a_tiny_confidence_is_exact() -> None:
    assert drop(torch.tensor([1e-30]), torch.tensor([0.25e-30])).item() == 0.75


def test_drop_does_not_hide_nan() -> None:
    nan = float("nan")
    values = drop(torch.tensor([nan, 0.5]), torch.tensor([0.5, nan]))
    assert all(math.isnan(value) for value in values.tolist())


def test_increase_is_strict() -> None:
    p = torch.tensor([0.5, 0.5, 0.5])
    masked = torch.tensor([0.5, 0.5000001, 0.4])
    assert increase(p, masked, margin=0).tolist() == [False, True, False]
    assert increase(p, masked, margin=1e-5).tolist() == [False, False, False]


def test_increase_at_the_margin() -> None:
    p, masked = torch.tensor([0.25, 0.25]), torch.tensor([0.5, 0.5 + 2**-20])
    assert increase(p, masked, margin=0.25).tolist() == [False, True]


def test_no_gradient_from_where_p_is_zero() -> None:
    p = torch.tensor([0.0, 0.5], requires_grad=True)
    drop(p, torch.tensor([0.2, 0.25])).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()
