"""Selection of removed pixels: hand values, literal references, ties, exact counts, the authors' numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from literal_road import literal_percentile_removal, literal_removal
from tame.functional.removal import check_remove, removal_ranks, remove_by_percentile, remove_exactly
from tame.types import RemovalOrder
from tame.utils.checks import InputError

REMOVES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
ORDERS: tuple[RemovalOrder, ...] = ("morf", "lerf")
Select = Callable[..., Tensor]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_ties(*shape: int) -> Tensor:
    """Return maps with many tied values, more than half of them zero."""
    return ((noise(*shape) * 8).floor() / 8 - 0.5).relu() * 2


MAPS = {
    "noise": noise(3, 9, 7),
    "ties": with_ties(3, 9, 7),
    "constant": torch.ones(2, 5, 5),
    "zeros": torch.zeros(2, 5, 5),
    "one pixel": torch.ones(2, 1, 1),
    "a row": noise(2, 1, 11),
}


class TestRanks:
    def test_by_hand(self) -> None:
        maps = torch.tensor([[[0.3, 0.1], [0.9, 0.5]]])
        assert removal_ranks(maps, "morf").tolist() == [[[2, 3], [0, 1]]]
        assert removal_ranks(maps, "lerf").tolist() == [[[1, 0], [3, 2]]]

    @pytest.mark.parametrize("order", ORDERS)
    def test_equals_go_by_index_in_both_orders(self, order: RemovalOrder) -> None:
        assert removal_ranks(torch.full((2, 2, 3), 0.5), order).tolist() == [[[0, 1, 2], [3, 4, 5]]] * 2

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
    def test_are_a_permutation(self, maps: Tensor, order: RemovalOrder) -> None:
        ranks = removal_ranks(maps, order)
        assert ranks.dtype == torch.int64 and ranks.shape == maps.shape
        assert torch.equal(ranks.flatten(1).sort(1).values, torch.arange(maps[0].numel()).expand(len(maps), -1))

    def test_signs_and_infinite_values(self) -> None:
        maps = torch.tensor([[[-1.0, float("inf"), 0.0, float("-inf")]]])
        assert removal_ranks(maps, "morf").tolist() == [[[2, 0, 1, 3]]]


class TestExactly:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
    def test_literal_twin(self, maps: Tensor, order: RemovalOrder) -> None:
        found = remove_exactly(maps, (*REMOVES, 1.0), order)
        for relevance, sets in zip(maps, found, strict=True):
            for remove, removed in zip((*REMOVES, 1.0), sets, strict=True):
                assert torch.equal(removed, literal_removal(relevance, remove, order))

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
    def test_sets_are_nested(self, maps: Tensor, order: RemovalOrder) -> None:
        found = remove_exactly(maps, REMOVES, order)
        assert (found[:, 1:] | ~found[:, :-1]).all()

    @pytest.mark.parametrize("side", [7, 10, 32, 64, 224])
    def test_counts_are_exact(self, side: int) -> None:
        """Decimal fractions are exact: 0.7 of 100 is 70, although 0.7 * 100 is 69.99... in floating point."""
        found = remove_exactly(with_ties(1, side, side), REMOVES, "morf").sum((2, 3))[0]
        assert found.tolist() == [round(10 * remove) * side * side // 10 for remove in REMOVES]

    def test_every_hundredth_is_exact(self) -> None:
        removes = [percent / 100 for percent in range(1, 101)]
        assert remove_exactly(noise(1, 10, 10), removes, "lerf").sum((2, 3))[0].tolist() == list(range(1, 101))
        assert remove_exactly(noise(1, 30, 10), removes, "lerf").sum((2, 3))[0].tolist() == list(range(3, 301, 3))

    def test_a_fraction_of_no_pixel_removes_none(self) -> None:
        assert not remove_exactly(noise(2, 2, 2), [0.1], "morf").any()

    def test_most_and_least_relevant_share_nothing_at_one_half(self) -> None:
        maps = noise(3, 8, 8)
        (morf,), (lerf,) = (remove_exactly(maps, [0.5], order).unbind(1) for order in ORDERS)
        assert torch.equal(morf, ~lerf)

    def test_stretching_a_map_changes_nothing(self) -> None:
        maps = noise(2, 12, 12)
        assert torch.equal(remove_exactly(maps, REMOVES, "morf"), remove_exactly((maps * 3 - 5).exp(), REMOVES, "morf"))

    def test_no_images(self) -> None:
        assert remove_exactly(noise(0, 4, 4), REMOVES, "morf").shape == (0, 7, 4, 4)


class TestByPercentile:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
    def test_literal_twin(self, maps: Tensor, order: RemovalOrder) -> None:
        found = remove_by_percentile(maps, REMOVES, order)
        for relevance, sets in zip(maps, found, strict=True):
            for remove, removed in zip(REMOVES, sets, strict=True):
                assert torch.equal(removed, literal_percentile_removal(relevance, remove, order))

    def test_a_sparse_map_loses_more_than_asked(self) -> None:
        maps = torch.tensor([[[0.0] * 6 + [0.2, 0.4, 0.6, 1.0]]])
        counts = remove_by_percentile(maps, [0.1, 0.3, 0.5, 0.9], "morf").sum((2, 3))[0]
        assert counts.tolist() == [1, 3, 10, 10]
        counts = remove_by_percentile(maps, [0.1, 0.5, 0.9], "lerf").sum((2, 3))[0]
        assert counts.tolist() == [6, 6, 9]

    def test_everything_is_removed_at_one(self) -> None:
        assert remove_by_percentile(noise(2, 5, 5), [1.0], "morf").all()


@pytest.mark.parametrize("select", [remove_exactly, remove_by_percentile])
@pytest.mark.parametrize("remove", [0.0, -0.1, 1.1, 10, float("nan")])
def test_a_percentage_is_no_fraction(select: Select, remove: float) -> None:
    with pytest.raises(InputError, match=rf"expected remove, a fraction of the pixels, in \(0, 1\], got {remove}"):
        select(noise(1, 4, 4), [0.5, remove], "morf")
    with pytest.raises(InputError, match=r"expected remove"):
        check_remove(remove)


@pytest.mark.parametrize("select", [remove_exactly, remove_by_percentile])
@pytest.mark.parametrize("order", ORDERS)
def test_maps_do_not_mix(select: Select, order: RemovalOrder) -> None:
    maps = torch.stack([noise(6, 8), with_ties(6, 8), torch.ones(6, 8)])
    alone = torch.cat([select(each.unsqueeze(0), REMOVES, order) for each in maps])
    assert torch.equal(select(maps, REMOVES, order), alone)


@pytest.mark.shared
class TestReferences:
    @pytest.fixture
    def road(self, shared_dir: Path) -> Any:
        return torch.load(shared_dir / "reference" / "road.pt", weights_only=True)["sets"]

    @pytest.mark.parametrize("side", ["32", "64"])
    @pytest.mark.parametrize("remove", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    def test_road_most_relevant_first(self, road: Any, side: str, remove: float) -> None:
        case = road[side]
        (found,) = remove_exactly(case["attributions"], [remove], "morf").unbind(1)
        assert torch.equal(found, case["masks_no_tiebreak"][f"morf_{remove}"] == 0)

    @pytest.mark.parametrize("side", ["32", "64"])
    @pytest.mark.parametrize("keep", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    def test_road_least_relevant_first(self, road: Any, side: str, keep: float) -> None:
        """Theirs keeps int(p HW), so it removes at most one pixel more than 1 - p of all."""
        case = road[side]
        maps, theirs = case["attributions"], case["masks_no_tiebreak"][f"lerf_{keep}"] == 0
        pixels = maps[0].numel()
        exactly, ours = remove_exactly(maps, [(pixels - int(pixels * keep)) / pixels, 1 - keep], "lerf").unbind(1)
        assert torch.equal(exactly, theirs)
        assert (theirs | ~ours).all()
        assert (theirs & ~ours).sum((1, 2)).max() <= 1

    @pytest.mark.parametrize("name", ["smooth_64", "noise_64", "ties_64", "many_zeros_64", "224"])
    @pytest.mark.parametrize("order", ORDERS)
    def test_the_authors_program(self, shared_dir: Path, name: str, order: RemovalOrder) -> None:
        folder = shared_dir / "reference" / "authors_program"
        road = torch.load(folder / ("road_224.pt" if name == "224" else "road_64.pt"), weights_only=True)
        case = road if name == "224" else road[name]
        removes = [1 - percentile / 100 for percentile in road["percentiles"]]
        (found,) = remove_by_percentile(case["mask"].unsqueeze(0), removes, order)
        assert torch.equal(found, ~torch.stack(case[f"{order}_binary"]))
        assert found.float().mean((1, 2)).tolist() == pytest.approx(case[f"removed_fraction_{order}"])
        assert torch.equal(remove_by_percentile(case["mask"].unsqueeze(0), REMOVES, order)[0], found)
