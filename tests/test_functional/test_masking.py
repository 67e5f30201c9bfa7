"""Scaling, thresholding and masking: literal references, hand values, edge cases, the authors' numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from tame.functional.masking import apply_mask, drawable, keep_top, min_max, rank_scale, scale_and_upsample, upsample
from tame.utils.checks import InputError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tied(batch: int, side: int, levels: int = 4) -> Tensor:
    return (noise(batch, side, side) * levels).floor() / levels


def literal_keep_top(values: list[float], keep: float) -> list[float]:
    """Quantile with linear interpolation between the two nearest sorted values."""
    ordered = sorted(values)
    place = (1 - keep) * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    threshold = ordered[low] + (place - low) * (ordered[high] - ordered[low])
    return [value if value >= threshold else 0.0 for value in values]


def literal_rank(values: list[float]) -> list[float]:
    """Average of the places that a value could take among the sorted ones."""
    ranks = []
    for value in values:
        smaller = sum(other < value for other in values)
        equal = sum(other == value for other in values)
        ranks.append((smaller + (equal - 1) / 2) / (len(values) - 1))
    return ranks


class TestMinMax:
    def test_by_hand(self) -> None:
        maps = torch.tensor([[[-2.0, 0.0], [2.0, 6.0]], [[1.0, 1.5], [1.25, 2.0]]])
        assert min_max(maps).tolist() == [[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.5], [0.25, 1.0]]]

    @pytest.mark.parametrize("value", [0.0, -3.0, 7.5, 1e-30, -1e30])
    def test_a_constant_map_becomes_ones(self, value: float) -> None:
        assert min_max(torch.full((2, 3, 5), value)).eq(1).all()

    def test_every_map_on_its_own(self) -> None:
        maps = noise(3, 4, 5) * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1)
        assert torch.equal(min_max(maps), torch.cat([min_max(each.unsqueeze(0)) for each in maps]))

    def test_the_ends_are_exact(self) -> None:
        scaled = min_max(noise(20, 7, 7) - 0.5)
        assert scaled.amin((1, 2)).eq(0).all() and scaled.amax((1, 2)).eq(1).all()

    def test_gradient_is_finite_for_a_constant_map(self) -> None:
        maps = torch.full((1, 2, 2), 3.0, requires_grad=True)
        min_max(maps).sum().backward()
        assert maps.grad is not None and maps.grad.isfinite().all()


class TestUpsample:
    def test_by_hand(self) -> None:
        assert upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4)).tolist() == [[[0.0, 0.25, 0.75, 1.0]]]

    def test_not_square(self) -> None:
        maps = noise(2, 3, 5)
        expected = F.interpolate(maps.unsqueeze(1), (12, 7), mode="bilinear", align_corners=False)[:, 0]
        assert torch.equal(upsample(maps, (12, 7)), expected)

    def test_same_size_is_untouched(self) -> None:
        maps = noise(2, 3, 5)
        assert torch.equal(upsample(maps, (3, 5)), maps)


class TestRankScale:
    @pytest.mark.parametrize("maps", [noise(3, 6, 5), tied(3, 6), torch.zeros(2, 3, 3), -noise(2, 4, 4)])
    def test_literal_twin(self, maps: Tensor) -> None:
        expected = [literal_rank(each.flatten().tolist()) for each in maps]
        torch.testing.assert_close(rank_scale(maps).flatten(1), torch.tensor(expected), rtol=0, atol=1e-7)

    @pytest.mark.parametrize("levels", [2, 50, 10**6])
    def test_against_scipy(self, levels: int) -> None:
        maps = tied(3, 40, levels)
        expected = (rankdata(maps.flatten(1).numpy(), axis=1) - 1) / (40 * 40 - 1)
        assert torch.equal(rank_scale(maps).flatten(1), torch.from_numpy(expected).float())

    def test_mean_is_one_half_whatever_the_map(self) -> None:
        maps = torch.stack([noise(9, 9), noise(9, 9).relu() ** 8, (noise(9, 9) > 0.9).float(), torch.ones(9, 9)])
        torch.testing.assert_close(rank_scale(maps).mean((1, 2)), torch.full((4,), 0.5))

    def test_stretching_changes_nothing(self) -> None:
        maps = noise(2, 12, 12)
        assert torch.equal(rank_scale(maps), rank_scale(maps.sqrt() * 5 - 3))

    def test_a_constant_map_is_one_half(self) -> None:
        assert rank_scale(torch.ones(2, 4, 4)).eq(0.5).all()

    def test_one_pixel_is_one(self) -> None:
        assert rank_scale(torch.zeros(2, 1, 1)).tolist() == [[[1.0]], [[1.0]]]

    def test_maps_do_not_mix(self) -> None:
        maps = torch.cat([torch.ones(1, 5, 5), noise(1, 5, 5), torch.ones(1, 5, 5)])
        assert torch.equal(rank_scale(maps), torch.cat([rank_scale(each.unsqueeze(0)) for each in maps]))

    def test_minus_zero_ties_with_zero(self) -> None:
        assert rank_scale(torch.tensor([[[0.0, -0.0, 1.0]]])).tolist() == [[[0.25, 0.25, 1.0]]]


def test_maps_to_draw() -> None:
    nan, ones = float("nan"), torch.ones(1, 2, 2)
    some = noise(1, 2, 2) - 0.5
    maps = torch.cat([0 * ones, -ones, ones, some, torch.tensor([[[nan, 1], [0, 1]]]), ones * float("inf")])
    scaled, notes = drawable(maps)
    assert notes == ["no positive evidence"] * 2 + [None] * 2 + ["invalid map"] * 2
    assert scaled[[0, 1, 4, 5]].eq(0).all() and scaled[2].eq(1).all() and torch.equal(scaled[3:4], min_max(some))


class TestKeepTop:
    @pytest.mark.parametrize("keep", [1.0, 0.9, 0.5, 0.3, 0.15, 0.01])
    @pytest.mark.parametrize("maps", [noise(3, 7, 9), tied(3, 8), torch.ones(2, 3, 3), torch.zeros(1, 3, 3)])
    def test_literal_twin(self, keep: float, maps: Tensor) -> None:
        expected = [literal_keep_top(each.flatten().double().tolist(), keep) for each in maps]
        torch.testing.assert_close(keep_top(maps, keep).flatten(1), torch.tensor(expected), rtol=0, atol=0)

    @pytest.mark.parametrize(("keep", "count"), [(1.0, 10_000), (0.5, 5000), (0.15, 1500)])
    def test_counts_without_ties(self, keep: float, count: int) -> None:
        maps = (torch.randperm(10_000, generator=torch.Generator().manual_seed(0)) + 1.0).view(1, 100, 100)
        kept = keep_top(maps, keep)
        assert int((kept > 0).sum()) == count
        assert kept[kept > 0].min().item() == 10_000 - count + 1

    @pytest.mark.parametrize("keep", [0.5, 0.15])
    def test_a_constant_map_is_kept_whole(self, keep: float) -> None:
        assert keep_top(torch.ones(1, 6, 6), keep).eq(1).all()

    def test_more_values_than_older_versions_take_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A limit on the values of one call, as PyTorch's own of 16 million, is one of a single map's."""
        maps, quantile = noise(5, 8, 9), torch.quantile

        def limited(values: Tensor, *given: Any, **options: Any) -> Tensor:
            assert values.numel() <= 72, "quantile() input tensor is too large"
            return quantile(values, *given, **options)

        threshold = quantile(maps.flatten(1), 0.85, dim=1).view(-1, 1, 1)
        monkeypatch.setattr(torch, "quantile", limited)
        assert torch.equal(keep_top(maps, 0.15), torch.where(maps < threshold, 0, maps))  # bit for bit

    def test_not_in_place(self) -> None:
        maps = noise(1, 4, 4)
        before = maps.clone()
        keep_top(maps, 0.5)
        assert torch.equal(maps, before)

    @pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, 50, float("nan")])
    def test_no_fraction(self, keep: float) -> None:
        with pytest.raises(InputError, match=r"expected keep, a fraction of the pixels, in \(0, 1\], got"):
            keep_top(torch.ones(1, 2, 2), keep)


class TestScaleAndUpsample:
    def test_min_max_before_upsampling(self) -> None:
        """Scaled at its own resolution: the upsampled map need not reach 0 or 1."""
        maps = torch.tensor([[[0.0, 0.0, 5.0, 0.0, 0.0]]])
        scaled = scale_and_upsample(maps, (1, 10), "minmax")
        assert scaled.max().item() == 0.75

    def test_rank_after_upsampling(self) -> None:
        maps = noise(1, 3, 3)
        scaled = scale_and_upsample(maps, (8, 8), "rank")
        assert torch.equal(scaled, rank_scale(upsample(min_max(maps), (8, 8))))

    @pytest.mark.parametrize("side", [1, 3, 7, 12, 14, 28])
    @pytest.mark.parametrize("size", [(31, 53), (45, 31), (224, 224)])
    def test_a_constant_map(self, side: int, size: tuple[int, int]) -> None:
        """Exactly constant at every size, otherwise rounding would decide which pixels are kept."""
        maps = torch.full((1, side, side), 0.3)
        assert scale_and_upsample(maps, size, "minmax").eq(1).all()
        assert scale_and_upsample(maps, size, "rank").eq(0.5).all()


class TestApplyMask:
    images = noise(2, 3, 4, 4)

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        return (images - 0.5) / 0.25

    def test_removed_pixels(self) -> None:
        """Black with `cnn`, the dataset mean with `vit`."""
        masks = torch.zeros(2, 4, 4)
        assert apply_mask(self.images, masks, self.normalise, "cnn").eq(-2).all()
        assert apply_mask(self.images, masks, self.normalise, "vit").eq(0).all()

    @pytest.mark.parametrize("kind", ["cnn", "vit"])
    def test_ones_change_nothing(self, kind: str) -> None:
        masked = apply_mask(self.images, torch.ones(2, 4, 4), self.normalise, kind)  # type: ignore[arg-type]
        assert torch.equal(masked, self.normalise(self.images))

    def test_every_image_has_its_own_mask_for_all_channels(self) -> None:
        masks = noise(2, 4, 4, seed=1)
        masked = apply_mask(self.images, masks, lambda images: images, "cnn")
        for index in range(2):
            for channel in range(3):
                assert torch.equal(masked[index, channel], self.images[index, channel] * masks[index])


@pytest.mark.shared
class TestAuthorsNumbers:
    @pytest.fixture(scope="class")
    def cases(self, shared_dir: Path) -> dict[str, dict[str, object]]:
        return torch.load(shared_dir / "reference" / "authors_program" / "metrics_adic.pt", weights_only=True)

    @pytest.mark.parametrize(
        ("kind", "normalised"),
        [*[(kind, flag) for kind in ("diagonal", "random", "ties") for flag in (True, False)], ("224", True)],
    )
    def test_masked_inputs(self, cases: dict[str, dict[str, object]], kind: str, normalised: bool) -> None:
        case = cases[f"masked_{kind}_normalized{normalised}"]
        images, masks = case["images"], case["masks"]
        assert isinstance(images, Tensor) and isinstance(masks, Tensor)
        picked = masks.diagonal(dim1=0, dim2=1).permute(2, 0, 1) if case["masking"] == "random" else masks[:, 0]
        scaled = upsample(picked, (images.shape[2], images.shape[3]))
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        for keep, expected in zip((1.0, 0.5, 0.15), case["outputs"], strict=True):  # type: ignore[call-overload]
            kept = keep_top(scaled, keep)
            if normalised:
                masked = apply_mask(images * std + mean, kept, lambda plain: (plain - mean) / std, "cnn")
            else:
                masked = apply_mask(images, kept, lambda plain: plain, "vit")
            torch.testing.assert_close(masked, expected, rtol=0, atol=1e-5)

    def test_min_max(self, cases: dict[str, list[dict[str, Tensor]]]) -> None:
        for case in cases["minmax"]:
            given, expected = case["input"][:, 0], case["output"][:, 0]
            if case["input"].shape[1] > 1:
                continue  # theirs scales over channels together; our maps have none
            constant = given.amax((1, 2)) == given.amin((1, 2))
            scaled = min_max(given)
            torch.testing.assert_close(scaled[~constant], expected[~constant], rtol=0, atol=1e-5)
            assert scaled[constant].eq(1).all() and expected[constant].eq(0).all()  # ours differs by design
