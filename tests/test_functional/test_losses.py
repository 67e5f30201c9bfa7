import math
import statistics

import pytest
import torch

from tame.functional.losses import area_paper, area_released, variation_paper, variation_released
from tame.functional.masking import keep_top, rank_scale, soft_keep_top, soft_rank

SHAPES = [(1, 1, 4, 4), (2, 3, 5, 4), (3, 1, 1, 6), (2, 2, 1, 1)]


def literal_area(maps, offset):
    values = [value for value in maps.flatten().tolist()]
    return sum((value + offset) ** 0.3 for value in values) / len(values)


def literal_variation(maps, border):
    """Sum over all maps of squared differences to the neighbour below and to the right, and of the border."""
    total = 0.0
    for row_of_maps in maps.tolist():
        for rows in row_of_maps:
            height, width = len(rows), len(rows[0])
            for y in range(height):
                for x in range(width):
                    total += (rows[y + 1][x] - rows[y][x]) ** 2 if y + 1 < height else 0
                    total += (rows[y][x + 1] - rows[y][x]) ** 2 if x + 1 < width else 0
            for y in 0, height - 1:
                total += border * sum(value**2 for value in rows[y])
            for x in 0, width - 1:
                total += border * sum(row[x] ** 2 for row in rows)
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_terms_equal_their_literal_forms(shape):
    maps = torch.rand(shape, dtype=torch.float64)
    assert area_paper(maps).item() == pytest.approx(literal_area(maps, 0))
    assert area_released(maps).item() == pytest.approx(literal_area(maps, 0.0005))
    assert variation_paper(maps).item() == pytest.approx(literal_variation(maps, 0) / (2 * maps.numel()))
    assert variation_released(maps).item() == pytest.approx(literal_variation(maps, 0.3) / (2 * shape[0]))


@pytest.mark.parametrize("term", [area_paper, area_released, variation_paper, variation_released])
def test_terms_are_differentiable(term):
    maps = torch.rand(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(term, maps)


def test_values_computed_by_hand():
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert area_paper(maps).item() == pytest.approx(0.25)
    assert variation_paper(maps).item() == pytest.approx((1 + 1) / 8)
    assert variation_released(maps).item() == pytest.approx((1 + 1 + 0.3 * 2) / 2)  # the corner counts twice
    ones = torch.ones(2, 1, 3, 3)
    assert area_paper(ones).item() == 1
    assert variation_paper(ones).item() == 0
    assert variation_released(ones).item() == pytest.approx(0.3 * 12 / 2)


def test_smooth_ranks_become_ranks():
    """With a quantile per pixel and no temperature, only the pixel's own quantile counts half."""
    maps = torch.randn(2, 4, 8)
    hard = soft_rank(maps, levels=32, temperature=1e-6)
    order = rank_scale(maps) * 31
    torch.testing.assert_close(hard, (order + 0.5) / 32, atol=1e-5, rtol=0)
    soft = soft_rank(torch.randn(1, 64, 64), temperature=1e-3)
    assert 0 <= soft.min() < 0.03 and 0.97 < soft.max() <= 1


def test_smooth_ranks_by_hand():
    """The default temperature, with the formula written out: 32 quantiles of 64 values are every second one."""
    maps = torch.randn(1, 8, 8, dtype=torch.float64)
    values = sorted(maps.flatten().tolist())
    width = 0.1 * statistics.stdev(values)
    expected = [
        statistics.mean(1 / (1 + math.exp(-(value - step) / width)) for step in values[1::2])
        for value in maps.flatten().tolist()
    ]
    assert soft_rank(maps).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_smooth_ranks_come_nearer_as_the_temperature_falls():
    maps = torch.randn(3, 16, 16)
    expected = rank_scale(maps)
    errors = [(soft_rank(maps, 128, temperature) - expected).abs().mean() for temperature in (1, 0.1, 0.01)]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.01


def test_smooth_ranks_know_neither_scale_nor_offset():
    maps = torch.randn(2, 6, 6)
    torch.testing.assert_close(soft_rank(7 * maps - 3), soft_rank(maps), atol=1e-4, rtol=0)
    one_scaled = torch.stack([maps[0], 100 * maps[1]])
    torch.testing.assert_close(soft_rank(one_scaled), soft_rank(maps), atol=1e-4, rtol=0)


def test_smooth_ranks_keep_the_order():
    maps = torch.randn(1, 5, 5)
    assert torch.equal(soft_rank(maps).flatten().argsort(), maps.flatten().argsort())


@pytest.mark.parametrize("value", [0.0, -3.5, 1e6])
def test_smooth_ranks_of_a_constant_map(value):
    maps = torch.full((1, 4, 4), value, requires_grad=True)
    ranks = soft_rank(maps)
    assert torch.equal(ranks, torch.full((1, 4, 4), 0.5))
    ranks.sum().backward()
    assert maps.grad.isfinite().all()


def test_smooth_rank_of_a_single_pixel():
    maps = torch.tensor([[[3.0]], [[-1.0]]], requires_grad=True)
    ranks = soft_rank(maps)
    assert ranks.flatten().tolist() == [0.5, 0.5]
    ranks.sum().backward()
    assert maps.grad.isfinite().all()


def test_smooth_ranks_are_differentiable():
    maps = torch.randn(2, 4, 4, requires_grad=True)
    (soft_rank(maps) * torch.randn(2, 4, 4)).sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().sum() > 0
    # to first order, adding a constant changes nothing
    assert maps.grad.sum((1, 2)).abs().max() < 1e-4 * maps.grad.abs().sum()


def test_smooth_threshold_by_hand():
    ranks = torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]])
    kept = soft_keep_top(ranks, torch.tensor([0.5]), temperature=1e-4)
    assert kept.flatten().tolist() == pytest.approx([0, 0, 0.25, 0.75, 1.0])  # half at the step itself
    soft = soft_keep_top(ranks, torch.tensor([0.5]), temperature=0.25)
    expected = [rank / (1 + 2.718281828 ** (-(rank - 0.5) / 0.25)) for rank in (0, 0.25, 0.5, 0.75, 1)]
    assert soft.flatten().tolist() == pytest.approx(expected)
    usual = soft_keep_top(ranks, torch.tensor([0.45]))  # the step at 0.55, its width 0.05
    expected = [rank / (1 + 2.718281828 ** (-(rank - 0.55) / 0.05)) for rank in (0, 0.25, 0.5, 0.75, 1)]
    assert usual.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_smooth_threshold_becomes_the_hard_one_for_each_image():
    ranks = rank_scale(torch.randn(3, 8, 8))
    keep = torch.tensor([0.15, 0.5, 1.0])
    soft = soft_keep_top(ranks, keep, temperature=1e-5)
    for index, share in enumerate(keep.tolist()):
        hard = keep_top(ranks[index : index + 1], share)[0]
        assert ((soft[index] - hard).abs() < 1e-3).float().mean() > 0.98
    torch.testing.assert_close(soft[2], ranks[2], atol=1e-4, rtol=0)


def test_a_larger_share_keeps_more():
    ranks = rank_scale(torch.randn(1, 8, 8)).expand(3, 8, 8)
    kept = soft_keep_top(ranks, torch.tensor([0.1, 0.5, 0.9])).sum((1, 2))
    assert kept[0] < kept[1] < kept[2]
