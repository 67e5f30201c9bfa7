"""Each relevance rule against loops over its formula, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tame.explainers.lrp import rules


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divide() -> None:
    found = rules.divide(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, -1e-9, -2.0, 3.0]))
    assert found.tolist() == pytest.approx([0.0, 1e9, -0.5, 0.0])


def test_divide_is_finite_where_the_denominator_is_zero() -> None:
    assert rules.divide(torch.full((2,), 1e30), torch.zeros(2)).tolist() == [0.0, 0.0]


def test_linear_literal_twin() -> None:
    inputs, weight, relevance = draw(2, 3, 4), draw(5, 4, seed=1), draw(2, 3, 5, seed=2)
    expected = torch.zeros(2, 3, 4).double()
    for b in range(2):
        for n in range(3):
            for i in range(5):
                positive = [max(0.0, float(inputs[b, n, j] * weight[i, j])) for j in range(4)]
                for j in range(4):
                    expected[b, n, j] += relevance[b, n, i] * positive[j] / (sum(positive) + 1e-9)
    torch.testing.assert_close(rules.linear(inputs, weight, relevance), expected)


def test_product_literal_twin() -> None:
    left, right, relevance = draw(2, 3, 4), draw(2, 4, 5, seed=1), draw(2, 3, 5, seed=2)
    first, second = torch.zeros_like(left), torch.zeros_like(right)
    for b in range(2):
        for n in range(3):
            for m in range(5):
                whole = sum(left[b, n, k] * right[b, k, m] for k in range(4)) + 1e-9
                for k in range(4):
                    share = left[b, n, k] * right[b, k, m] / whole * relevance[b, n, m] / 2
                    first[b, n, k] += share
                    second[b, k, m] += share
    found = rules.product(left, right, relevance)
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[1], second)


def test_add_literal_twin() -> None:
    left, right, relevance = draw(3, 4, 5), draw(3, 4, 5, seed=1), draw(3, 4, 5, seed=2)
    found = rules.add(left, right, relevance)
    for b in range(3):  # every image for itself
        shares = relevance[b] / (left[b] + right[b])
        raw = [left[b] * shares, right[b] * shares]
        sums = [float(part.sum()) for part in raw]
        for index in range(2):
            factor = abs(sums[index]) / (abs(sums[0]) + abs(sums[1])) * float(relevance[b].sum()) / sums[index]
            torch.testing.assert_close(found[index][b], raw[index] * factor, rtol=1e-5, atol=1e-7)


def test_join_adds_up_what_is_not_zero() -> None:
    found = rules.join(torch.tensor([2.0, -3.0, 0.0]), torch.tensor([1.0, 2.0, 5.0]), torch.tensor([3.0, -1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([4.0, 1.0, 0.0]))


def test_select_gives_all_to_the_first_token() -> None:
    tokens, relevance = draw(2, 3, 4), draw(2, 4, seed=1)
    found = rules.select(tokens, relevance)
    torch.testing.assert_close(found[:, 0], relevance, rtol=1e-6, atol=0)
    assert found[:, 1:].eq(0).all()


@pytest.mark.parametrize("seed", range(3))
def test_every_rule_conserves_the_total(seed: int) -> None:
    # of 16 inputs, some contribute positively to every output
    left, right, relevance = (draw(2, 16, 16, seed=seed + offset) for offset in (0, 9, 18))
    table = rules.TRANSFORMER_LRP
    total = relevance.sum((1, 2))
    for parts in (
        table.add(left, right, relevance),
        table.product(left, right, relevance),
        (table.linear(left, right[0], relevance),),
        (table.join(left, relevance / 4, relevance * 3 / 4),),
        (table.norm(relevance),),
        (table.activation(relevance),),
        (table.softmax(relevance),),
    ):
        torch.testing.assert_close(sum(part.sum((1, 2)) for part in parts), total, rtol=1e-5, atol=1e-6)


def test_the_table_is_data() -> None:
    other = replace(rules.TRANSFORMER_LRP, activation=torch.zeros_like)
    assert other.linear is rules.linear and other.activation(torch.ones(1)).eq(0).all()
