"""Confidences, drops, increases, gains and areas: hand values and edge cases."""

from __future__ import annotations

import math

import pytest
import torch

from tame.functional.scores import area_under_curve, confidences, drop, gain, increase, scores
from tame.types import ScoreKind
from tame.utils.checks import InputError


def test_scores_of_both_kinds_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [-50.0, 2.0]])
    softmax = [[0.25, 0.75], [1 / (1 + math.exp(52)), 1 / (1 + math.exp(-52))]]
    sigmoid = [[0.5, 0.75], [1 / (1 + math.exp(50)), 1 / (1 + math.exp(-2))]]
    torch.testing.assert_close(scores(logits, "softmax"), torch.tensor(softmax))
    torch.testing.assert_close(scores(logits, "sigmoid"), torch.tensor(sigmoid))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_confidences_are_the_scores_of_the_targets_in_float32(score: ScoreKind) -> None:
    logits, targets = torch.randn(4, 7).half(), torch.tensor([3, 0, 6, 3])
    found = confidences(logits, targets, score)
    assert found.dtype == torch.float32
    assert torch.equal(found, scores(logits.float(), score)[range(4), targets])


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


def test_no_score_hides_nan() -> None:
    nan = float("nan")
    p, masked = torch.tensor([nan, 0.5, 0.5]), torch.tensor([0.5, nan, 0.75])
    for values in (drop(p, masked), increase(p, masked, margin=0), gain(p, masked)):
        assert values.isnan().tolist() == [True, True, False]


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


def test_gain_by_hand() -> None:
    p = torch.tensor([0.5, 0.5, 0.0, 0.75])
    masked = torch.tensor([0.25, 0.75, 1.0, 0.75])
    assert gain(p, masked).tolist() == [0.0, 0.5, 1.0, 0.0]


def test_gain_of_full_confidence_is_zero() -> None:
    assert gain(torch.ones(2), torch.tensor([1.0, 0.5])).tolist() == [0.0, 0.0]


def test_gain_next_to_full_confidence_is_exact() -> None:
    assert gain(torch.tensor([1 - 2**-22]), torch.tensor([1 - 2**-24])).item() == 0.75


def test_gain_is_the_drop_of_the_missing_confidence() -> None:
    p, masked = torch.rand(2, 67, dtype=torch.float64)
    torch.testing.assert_close(gain(p, masked), drop(1 - p, 1 - masked))


def test_gain_does_not_hide_nan() -> None:
    nan = float("nan")
    values = gain(torch.tensor([nan, 0.5, 1.0]), torch.tensor([0.5, nan, nan]))
    assert all(math.isnan(value) for value in values.tolist())


def test_no_gradient_from_where_p_is_one() -> None:
    p = torch.tensor([1.0, 0.5], requires_grad=True)
    gain(p, torch.tensor([0.8, 0.75])).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_area_by_hand() -> None:
    curves = [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.5, 1.0, 0.0]]
    assert area_under_curve(torch.tensor(curves).T).tolist() == [0.25, 0.25, 0.625]


def test_area_literal_twin() -> None:
    confidences = torch.rand(29, 11, dtype=torch.float64)
    expected = [
        sum((left + right) / 2 / 28 for left, right in zip(curve[:-1], curve[1:], strict=True))
        for curve in confidences.T.tolist()
    ]
    torch.testing.assert_close(area_under_curve(confidences), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 28, 49, 224])
def test_area_stays_between_0_and_1(steps: int) -> None:
    assert area_under_curve(torch.ones(steps + 1, 3)).tolist() == [1.0] * 3
    assert area_under_curve(torch.zeros(steps + 1, 3)).tolist() == [0.0] * 3


def test_area_of_one_step_is_the_mean_of_both_ends() -> None:
    assert area_under_curve(torch.tensor([[1.0, 0.5], [0.5, 0.0]])).tolist() == [0.75, 0.25]


def test_area_does_not_hide_nan() -> None:
    areas = area_under_curve(torch.tensor([[0.5, 0.5], [float("nan"), 0.5], [0.5, 0.5]]))
    assert math.isnan(areas[0].item()) and areas[1].item() == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    p, masked = torch.rand(2, 5, dtype=dtype)
    assert gain(p, masked).dtype == dtype
    assert area_under_curve(torch.stack([p, masked])).dtype == dtype


@pytest.mark.parametrize(("shape", "text"), [((1, 4), r"\(1, 4\)"), ((0, 4), r"\(0, 4\)"), ((5,), r"\(5,\)")])
def test_area_needs_a_curve(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(InputError, match=rf"expected confidences of shape \(S \+ 1, B\) with S >= 1, got {text}"):
        area_under_curve(torch.zeros(shape))
