"""Linear imputation: direct solves, hard removed regions, hand values, edges, the authors' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from literal_road import direct_imputation, literal_imputation, literal_system
from tame.functional import imputation
from tame.functional.imputation import impute
from tame.utils.checks import InputError

LIMIT = 1e-4  # of the range; the worst that was measured is 1.1e-5
SIZES = [(16, 16), (17, 33), (40, 25)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def blobs(height: int, width: int, seed: int = 0) -> Tensor:
    return F.interpolate(noise(1, 1, 5, 5, seed=seed), size=(height, width), mode="bicubic")[0, 0]


def photo(height: int, width: int, channels: int = 3) -> Tensor:
    """Return smooth images with edges and noise, in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = [(x + y * channel) / (1 + channel) + 0.5 * (x > y) for channel in range(channels)]
    return (torch.stack(planes) + 0.2 * noise(channels, height, width)) / 1.7


def most(values: Tensor, share: float) -> Tensor:
    """Return a mask of the largest values, a fraction of all."""
    places = values.flatten().argsort(descending=True, stable=True).argsort()
    return (places < int(share * values.numel())).view_as(values)


def one(image: Tensor, removed: Tensor, **options: Any) -> Tensor:
    return impute(image.unsqueeze(0), removed[None, None], **options)[0, 0]


def difference(image: Tensor, removed: Tensor, found: Tensor) -> float:
    """Largest difference from the direct solve, as a share of the image's range."""
    return float((found - direct_imputation(image, removed)).abs().max() / (image.max() - image.min()))


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return y, x


def radius(height: int, width: int) -> Tensor:
    y, x = grid(height, width)
    return ((y - height / 2) ** 2 + (x - width / 2) ** 2).sqrt()


def border(height: int, width: int) -> Tensor:
    y, x = grid(height, width)
    return (y == 0) | (y == height - 1) | (x == 0) | (x == width - 1)


def at(height: int, width: int, row: int, column: int) -> Tensor:
    y, x = grid(height, width)
    return (y == row % height) & (x == column % width)


REGIONS: dict[str, Callable[[int, int], Tensor]] = {
    "10 % scattered": lambda h, w: most(noise(h, w), 0.1),
    "50 % scattered": lambda h, w: most(noise(h, w), 0.5),
    "90 % scattered": lambda h, w: most(noise(h, w), 0.9),
    "99 % scattered": lambda h, w: most(noise(h, w), 0.99),
    "10 % in blobs": lambda h, w: most(blobs(h, w), 0.1),
    "50 % in blobs": lambda h, w: most(blobs(h, w), 0.5),
    "90 % in blobs": lambda h, w: most(blobs(h, w), 0.9),
    "90 % in rows from the top": lambda h, w: grid(h, w)[0] * w + grid(h, w)[1] < int(0.9 * h * w),
    "90 % around the middle": lambda h, w: most(-radius(h, w), 0.9),
    "90 % from the outside": lambda h, w: most(radius(h, w), 0.9),
    "the border": border,
    "all but the border": lambda h, w: ~border(h, w),
    "all but a corner": lambda h, w: ~at(h, w, 0, 0),
    "all but the last corner": lambda h, w: ~at(h, w, -1, -1),
    "all but the middle": lambda h, w: ~at(h, w, h // 2, w // 2),
    "one corner": lambda h, w: at(h, w, 0, -1),
    "one pixel": lambda h, w: at(h, w, h // 2, w // 2),
    "every other row": lambda h, w: grid(h, w)[0] % 2 == 0,
    "seven of eight columns": lambda h, w: grid(h, w)[1] % 8 != 0,
    "diagonals": lambda h, w: (grid(h, w)[0] + grid(h, w)[1]) % 3 != 0,
    "a chessboard": lambda h, w: (grid(h, w)[0] + grid(h, w)[1]) % 2 == 0,
    "all but a lattice of points": lambda h, w: (grid(h, w)[0] % 4 != 0) | (grid(h, w)[1] % 4 != 0),
    "rings": lambda h, w: radius(h, w) % 6 < 4,
    "a comb": lambda h, w: (grid(h, w)[0] % 2 == 0) | (grid(h, w)[1] == 0),
}


class TestDirectSolve:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("region", REGIONS)
    def test_of_every_kind_of_region(self, region: str, size: tuple[int, int]) -> None:
        removed = REGIONS[region](*size)
        assert difference(photo(*size), removed, one(photo(*size), removed)) < LIMIT

    @pytest.mark.parametrize("region", ["90 % in blobs", "90 % from the outside", "all but a corner", "rings"])
    def test_at_the_size_of_a_network(self, region: str) -> None:
        image, removed = photo(224, 224), REGIONS[region](224, 224)
        assert difference(image, removed, one(image, removed)) < LIMIT

    @pytest.mark.parametrize("size", [(1, 60), (2, 300), (3, 2000), (128, 256)])
    def test_far_from_what_is_kept(self, size: tuple[int, int]) -> None:
        """Without recomputing the residual, float32 hides errors of up to 1 % in such long narrow regions."""
        image, removed = noise(2, *size), grid(*size)[1] >= size[1] // 8
        assert difference(image, removed, one(image, removed)) < LIMIT

    def test_far_from_what_is_kept_of_a_smooth_image(self) -> None:
        """The residual must be recomputed more than once here, since the hidden error is large."""
        image, removed = torch.stack([blobs(3, 2000, seed=seed) for seed in (0, 50)]), grid(3, 2000)[1] >= 40
        assert difference(image, removed, one(image, removed)) < LIMIT

    @pytest.mark.parametrize("size", [(1, 2), (2, 1), (1, 9), (2, 2), (2, 7), (3, 3), (5, 7), (8, 8), (9, 8), (17, 4)])
    def test_of_small_images(self, size: tuple[int, int]) -> None:
        for seed in range(20):
            image, removed = noise(2, *size, seed=seed), noise(*size, seed=seed + 100) < 0.2 + 0.035 * seed
            if removed.all():
                removed.view(-1)[seed % removed.numel()] = False
            assert difference(image, removed, one(image, removed)) < LIMIT

    def test_of_a_hundred_random_cases(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        for case in range(100):
            channels, height, width = integer(1, 6), integer(2, 60), integer(2, 60)
            image = integer(1, 50) * (noise(channels, height, width, seed=case) - 0.1 * integer(0, 20))
            relevance = noise(height, width, seed=case) * 0.1 * integer(0, 5) + blobs(height, width, seed=case)
            removed = most(relevance, 0.01 * integer(1, 100))
            assert difference(image, removed, one(image, removed)) < LIMIT, (case, channels, height, width)

    @pytest.mark.parametrize("channels", [1, 3, 5])
    def test_of_any_number_of_channels(self, channels: int) -> None:
        image, removed = noise(channels, 20, 20), most(blobs(20, 20), 0.6)
        assert difference(image, removed, one(image, removed)) < LIMIT

    @pytest.mark.parametrize(("gain", "offset"), [(1e-3, 0.0), (255.0, 0.0), (2.0, -1.0), (1.0, 1000.0), (-40.0, 5.0)])
    def test_of_any_range(self, gain: float, offset: float) -> None:
        """An offset only costs the accuracy that float32 cannot represent."""
        image, removed = gain * noise(3, 30, 30) + offset, most(blobs(30, 30), 0.8)
        digits = 1.2e-7 * abs(offset) / abs(gain)
        assert difference(image, removed, one(image, removed)) < LIMIT / 4 + digits

    def test_in_float64_to_a_smaller_tolerance(self) -> None:
        image, removed = noise(3, 40, 40).double(), most(blobs(40, 40), 0.8)
        found = one(image, removed, tolerance=1e-12)
        assert found.dtype == torch.float64
        assert difference(image, removed, found) < 1e-11

    def test_the_tolerance_is_met(self) -> None:
        image, removed = noise(3, 60, 60), most(blobs(60, 60), 0.9)
        errors = [difference(image, removed, one(image, removed, tolerance=10.0**-digit)) for digit in (1, 2, 3, 4, 5)]
        assert all(error < 2 * 10.0**-digit for digit, error in enumerate(errors, start=1))

    @pytest.mark.parametrize("seed", range(5))
    def test_twins_agree(self, seed: int) -> None:
        image, removed = noise(2, 6, 9, seed=seed), noise(6, 9, seed=seed + 50) < 0.7
        torch.testing.assert_close(direct_imputation(image, removed), literal_imputation(image, removed))


class TestByHand:
    def test_one_pixel_in_the_middle(self) -> None:
        image = torch.tensor([[[12.0, 0.0, 0.0], [24.0, 99.0, 0.0], [0.0, 0.0, 48.0]]])
        assert one(image, at(3, 3, 1, 1))[0, 1, 1].item() == pytest.approx(24 / 6 + 60 / 12)

    def test_weights_are_renormalised_in_a_corner(self) -> None:
        image = torch.tensor([[[99.0, 1.0], [2.0, 4.0]]])
        expected = (1 / 6 + 2 / 6 + 4 / 12) / (2 / 6 + 1 / 12)
        assert one(image, at(2, 2, 0, 0))[0, 0, 0].item() == pytest.approx(expected)

    def test_a_row_is_a_straight_line(self) -> None:
        image = torch.tensor([[[0.0, 9.0, 9.0, 9.0, 1.0, 9.0]]])
        found = one(image, torch.tensor([[False, True, True, True, False, True]]))
        torch.testing.assert_close(found, torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0, 1.0]]]), rtol=0, atol=1e-5)

    def test_removed_columns_continue_a_slope(self) -> None:
        slope = torch.linspace(0, 1, 20).expand(1, 12, 20)
        removed = (grid(12, 20)[1] > 4) & (grid(12, 20)[1] < 16)
        torch.testing.assert_close(one(slope, removed), slope, rtol=0, atol=1e-4)

    def test_removed_values_do_not_matter(self) -> None:
        image, removed = noise(3, 12, 12), most(blobs(12, 12), 0.5)
        other = torch.where(removed, 1 - image, image)
        torch.testing.assert_close(one(image, removed), one(other, removed), rtol=0, atol=1e-5)


class TestEdges:
    def test_none_removed_is_unchanged_bit_for_bit(self) -> None:
        images = noise(2, 3, 11, 14) - 0.5
        found = impute(images, torch.zeros(2, 3, 11, 14, dtype=torch.bool))
        assert torch.equal(found, images.unsqueeze(1).expand(-1, 3, -1, -1, -1))

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (16, 9)])
    def test_all_removed_is_the_mean_of_each_channel(self, size: tuple[int, int]) -> None:
        image = noise(3, *size)
        found = one(image, torch.ones(size, dtype=torch.bool))
        torch.testing.assert_close(found, image.mean((1, 2), keepdim=True).expand_as(image), rtol=0, atol=1e-6)

    def test_all_removed_is_zero_where_asked(self) -> None:
        assert one(noise(3, 9, 9), torch.ones(9, 9, dtype=torch.bool), all_removed="zero").eq(0).all()

    def test_all_removed_beside_others(self) -> None:
        image, some = noise(3, 20, 20), most(blobs(20, 20), 0.5)
        removed = torch.stack([torch.ones_like(some), some, torch.zeros_like(some)])
        everything, part, nothing = impute(image.unsqueeze(0), removed.unsqueeze(0), all_removed="zero")[0]
        assert everything.eq(0).all() and torch.equal(nothing, image)
        torch.testing.assert_close(part, one(image, some), rtol=0, atol=1e-6)

    def test_one_kept_pixel_fills_the_image(self) -> None:
        image = noise(2, 13, 18)
        found = one(image, ~at(13, 18, 4, 5))
        torch.testing.assert_close(found, image[:, 4, 5].view(2, 1, 1).expand_as(image), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("region", REGIONS)
    def test_kept_pixels_keep_every_bit(self, region: str) -> None:
        image, removed = 100 * noise(3, 17, 12) - 50, REGIONS[region](17, 12)
        found = one(image, removed, noise=noise(1, 3, 17, 12))
        assert torch.equal(found[:, ~removed], image[:, ~removed])

    @pytest.mark.parametrize("value", [0.0, 0.3, -7.1, 1e5])
    def test_a_constant_image_stays_one(self, value: float) -> None:
        image = torch.full((3, 33, 20), value)
        torch.testing.assert_close(one(image, most(blobs(33, 20), 0.9)), image, rtol=3e-7, atol=0)

    def test_a_constant_channel_stays_one(self) -> None:
        image = noise(2, 20, 20)
        image[1] = 0.7
        torch.testing.assert_close(one(image, most(noise(20, 20), 0.5))[1], image[1], rtol=1e-6, atol=0)

    def test_values_lie_between_the_kept_ones(self) -> None:
        image, removed = noise(3, 40, 40), most(blobs(40, 40), 0.9)
        kept = image[:, ~removed]
        found = one(image, removed).flatten(1)
        assert (found.amin(1) >= kept.amin(1) - 1e-5).all() and (found.amax(1) <= kept.amax(1) + 1e-5).all()

    def test_no_sets_and_no_images(self) -> None:
        assert impute(noise(2, 3, 4, 5), torch.zeros(2, 0, 4, 5, dtype=torch.bool)).shape == (2, 0, 3, 4, 5)
        assert impute(noise(0, 3, 4, 5), torch.zeros(0, 2, 4, 5, dtype=torch.bool)).shape == (0, 2, 3, 4, 5)

    def test_half_comes_back_as_float32(self) -> None:
        image, removed = noise(3, 12, 12).half(), most(noise(12, 12), 0.5)
        found = one(image, removed)
        assert found.dtype == torch.float32
        assert torch.equal(found, one(image.float(), removed))

    def test_the_arguments_are_untouched(self) -> None:
        images, removed, added = noise(1, 3, 12, 12), most(noise(12, 12), 0.5)[None, None], noise(1, 3, 12, 12, seed=1)
        copies = [each.clone() for each in (images, removed, added)]
        impute(images, removed, added)
        assert all(map(torch.equal, (images, removed, added), copies))

    def test_any_layout_in_memory(self) -> None:
        images, removed = noise(3, 3, 18, 20), torch.stack([most(noise(18, 20), 0.3), most(blobs(18, 20), 0.7)])
        removed = removed.expand(3, 2, 18, 20)
        expected = impute(images, removed.contiguous())
        strided = torch.stack([images, images], 4)[..., 1]
        for given in (images.to(memory_format=torch.channels_last), strided):
            torch.testing.assert_close(impute(given, removed), expected, rtol=0, atol=1e-6)
        same = impute(images[:1].expand(3, -1, -1, -1), removed)
        assert (same - expected[:1]).abs().max() < 1e-6

    def test_gradients_are_not_asked_for(self) -> None:
        image = noise(3, 12, 12).requires_grad_()
        assert one(image.detach(), most(noise(12, 12), 0.5)).requires_grad is False


class TestNoise:
    def test_lies_on_removed_pixels_alone(self) -> None:
        images, added = noise(2, 3, 15, 15), noise(2, 3, 15, 15, seed=1) - 0.5
        removed = torch.stack([most(noise(15, 15), 0.4), most(blobs(15, 15), 0.8)]).expand(2, 2, 15, 15)
        gained = impute(images, removed, added) - impute(images, removed)
        expected = added.unsqueeze(1) * removed.unsqueeze(2)
        torch.testing.assert_close(gained, expected, rtol=0, atol=1e-6)

    def test_is_added_where_all_is_removed(self) -> None:
        added = noise(1, 3, 6, 6)
        found = one(noise(3, 6, 6, seed=1), torch.ones(6, 6, dtype=torch.bool), noise=added, all_removed="zero")
        assert torch.equal(found, added[0])


class TestIndependence:
    @pytest.fixture
    def batch(self) -> tuple[Tensor, Tensor]:
        images = torch.stack([photo(30, 40), noise(3, 30, 40), torch.full((3, 30, 40), 0.5), 9 * noise(3, 30, 40) - 4])
        return images, torch.stack([build(30, 40) for build in REGIONS.values()]).expand(4, -1, -1, -1)

    @pytest.mark.parametrize("systems", [1, 2, 7, 1000])
    def test_of_what_is_solved_together(
        self, batch: tuple[Tensor, Tensor], systems: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, removed = batch
        expected = impute(images, removed)
        monkeypatch.setattr(imputation, "_CHUNK", {"cpu": systems * images[0].numel()})
        torch.testing.assert_close(impute(images, removed), expected, rtol=1e-6, atol=1e-6)

    def test_of_the_batch(self, batch: tuple[Tensor, Tensor]) -> None:
        images, removed = batch
        together = impute(images, removed)
        for image, sets, expected in zip(images, removed, together, strict=True):
            alone = torch.stack([one(image, each) for each in sets])
            torch.testing.assert_close(alone, expected, rtol=1e-6, atol=1e-6)

    def test_of_a_system_that_takes_long(self) -> None:
        """Solved systems do not change while another one is still being iterated."""
        easy, hard = at(3, 600, 1, 300), grid(3, 600)[1] > 20
        image = noise(3, 3, 600)
        beside = impute(image.unsqueeze(0), torch.stack([easy, hard]).unsqueeze(0))[0, 0]
        torch.testing.assert_close(beside, one(image, easy), rtol=0, atol=1e-6)

    def test_of_autocast(self) -> None:
        image, removed = photo(40, 40), most(blobs(40, 40), 0.9)
        expected = one(image, removed)
        with torch.autocast("cpu", torch.bfloat16):
            found = one(image, removed)
        assert found.dtype == torch.float32 and torch.equal(found, expected)

    def test_of_the_time(self) -> None:
        image, removed = photo(40, 40), most(blobs(40, 40), 0.9)
        assert torch.equal(one(image, removed), one(image, removed))

    @pytest.mark.gpu
    def test_of_the_device(self, batch: tuple[Tensor, Tensor]) -> None:
        images, removed = batch
        found = impute(images.cuda(), removed.cuda()).cpu()
        torch.testing.assert_close(found, impute(images, removed), rtol=0, atol=1e-4)


class TestErrors:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_values_that_are_no_numbers(self, value: float) -> None:
        images = noise(2, 1, 9, 9)
        images[1, 0, 4, 4] = value
        message = r"1 of 2 images could not be imputed: expected finite values, got values in \["
        with pytest.raises(ArithmeticError, match=message):
            impute(images, most(noise(9, 9), 0.5).expand(2, 1, 9, 9))

    @pytest.mark.parametrize(
        ("images", "removed", "message"),
        [
            ((3, 8, 8), (1, 1, 8, 8), r"expected images \(B, C, H, W\) and .* got \(3, 8, 8\) and \(1, 1, 8, 8\)"),
            ((1, 3, 8, 8), (1, 8, 8), r"removed pixels \(B, R, H, W\) of type bool, .* \(1, 8, 8\) of type torch.bool"),
            ((1, 3, 8, 8), (1, 1, 8, 9), r"expected removed pixels for images \(1, 3, 8, 8\), got \(1, 1, 8, 9\)"),
            ((2, 3, 8, 8), (1, 1, 8, 8), r"expected removed pixels for images \(2, 3, 8, 8\), got \(1, 1, 8, 8\)"),
        ],
    )
    def test_other_shapes(self, images: tuple[int, ...], removed: tuple[int, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            impute(torch.zeros(images), torch.zeros(removed, dtype=torch.bool))

    def test_other_types(self) -> None:
        with pytest.raises(InputError, match=r"of type bool, got .* of type torch.uint8"):
            impute(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def dense(planes: Tensor) -> Tensor:
    """Return the matrix (n, n) that nine planes (9, h, w) stand for, one entry at a time."""
    _, height, width = planes.shape
    matrix = torch.zeros(height * width, height * width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for plane, (dy, dx) in zip(planes, imputation._SHIFTS, strict=True):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    matrix[y * width + x, (y + dy) * width + x + dx] = plane[y, x]
    return matrix


def literal_interpolation(height: int, width: int) -> Tensor:
    """Return P (H W, h w): coarse point (I, J) lies on pixel (2 I, 2 J), weights fall linearly to 0 two pixels away."""
    rows, columns = height // 2 + 1, width // 2 + 1
    matrix = torch.zeros(height, width, rows, columns, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for row in range(rows):
                for column in range(columns):
                    down, right = 1 - abs(y - 2 * row) / 2, 1 - abs(x - 2 * column) / 2
                    matrix[y, x, row, column] = max(0.0, down) * max(0.0, right)
    return matrix.view(height * width, rows * columns)


def every_level(removed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the planes (9, h, w) of a level and those of the next coarser one."""
    planes = imputation._Pixels(removed[None, None].double()).planes()
    while planes[0, 0].numel() > 12:
        coarse = F.conv2d(imputation._even_borders(planes), imputation._GALERKIN.double(), stride=2)
        yield planes[0], coarse[0]
        planes = coarse


class TestMultigrid:
    @pytest.fixture(params=[(12, 12), (11, 14), (10, 7)])
    def removed(self, request: pytest.FixtureRequest) -> Tensor:
        return noise(*request.param) < 0.7

    def test_the_planes_of_the_pixels_are_the_equations(self, removed: Tensor) -> None:
        planes = imputation._Pixels(removed[None, None].double()).planes()[0]
        inside = removed.flatten()
        expected, _ = literal_system(torch.zeros(1, *removed.shape), removed)
        torch.testing.assert_close(dense(planes)[inside][:, inside], 12 * expected)
        assert dense(planes)[~inside].eq(0).all() and dense(planes)[:, ~inside].eq(0).all()

    def test_pixels_and_planes_apply_the_same_matrix(self, removed: Tensor) -> None:
        pixels = imputation._Pixels(removed[None, None].double())
        x, b = noise(1, 2, *removed.shape).double() * removed, noise(1, 2, *removed.shape, seed=1).double() * removed
        expected = b.flatten(2) - x.flatten(2) @ dense(pixels.planes()[0]).T
        torch.testing.assert_close(pixels.residual(b, x).flatten(2), expected)
        torch.testing.assert_close(imputation._Coarse(pixels.planes()).residual(b, x).flatten(2), expected)

    def test_an_exact_residual_is_the_residual(self, removed: Tensor) -> None:
        pixels = imputation._Pixels(removed.expand(3, 1, -1, -1).float())
        image = noise(2, *removed.shape)
        matrix, known = literal_system(image, removed)
        expected = torch.zeros(2, *removed.shape)
        expected[:, removed] = (12 * (known.T - image[:, removed].double() @ matrix.T)).float()
        found = pixels.exact_residual(image.expand(2, -1, -1, -1), torch.tensor([0, 2]))
        torch.testing.assert_close(found, expected.expand(2, -1, -1, -1), rtol=0, atol=1e-6)

    def test_interpolation_and_restriction_are_transposes(self, removed: Tensor) -> None:
        height, width = removed.shape
        matrix = literal_interpolation(height, width)
        coarse, fine = noise(1, 2, height // 2 + 1, width // 2 + 1).double(), noise(1, 2, height, width).double()
        up, down = imputation._interpolate(coarse, removed.shape), imputation._restrict(fine)
        torch.testing.assert_close(up.flatten(2), coarse.flatten(2) @ matrix.T)
        torch.testing.assert_close(down.flatten(2), fine.flatten(2) @ matrix)

    def test_coarse_planes_are_galerkin_products(self, removed: Tensor) -> None:
        for planes, coarse in every_level(removed):
            matrix = literal_interpolation(*planes.shape[1:])
            torch.testing.assert_close(dense(coarse), matrix.T @ dense(planes) @ matrix)

    def test_the_matrices_are_symmetric(self, removed: Tensor) -> None:
        for planes, _ in every_level(removed):
            torch.testing.assert_close(dense(planes), dense(planes).T)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    def test_the_smoother_contracts(self, share: float) -> None:
        """Eigenvalues of M^-1 A lie in [0, 1 / 0.6] on every level, so 1 - M^-1 A never amplifies."""
        for seed in range(5):
            for planes, _ in every_level(most(noise(13, 16, seed=seed), share)):
                absolute = planes.abs().sum(0)[None, None]
                inverse = imputation._smoother(planes[imputation._CENTRE][None, None], absolute).flatten()
                half = inverse.sqrt()
                eigenvalues = torch.linalg.eigvalsh(half.unsqueeze(1) * dense(planes) * half)
                assert eigenvalues.min() > -1e-9 and eigenvalues.max() < 1 / 0.6 + 1e-9

    def test_the_diagonal_alone_would_not(self) -> None:
        coarse = list(every_level(most(noise(13, 16), 0.1)))[1][0]
        diagonal = coarse[imputation._CENTRE].flatten()
        half = torch.where(diagonal > 0, diagonal.rsqrt(), 0)
        assert torch.linalg.eigvalsh(half.unsqueeze(1) * dense(coarse) * half).max() > 2

    def test_the_smoother_of_the_pixels_is_that_of_their_planes(self, removed: Tensor) -> None:
        pixels = imputation._Pixels(removed[None, None].double())
        torch.testing.assert_close(pixels.inverse, imputation._Coarse(pixels.planes()).inverse)

    @pytest.mark.parametrize("region", REGIONS)
    def test_few_iterations_do(self, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(imputation, "_MAX_ITERATIONS", 14)
        one(photo(65, 48), REGIONS[region](65, 48))


@pytest.mark.shared
class TestReferences:
    @pytest.fixture
    def road(self, shared_dir: Path) -> Any:
        return torch.load(shared_dir / "reference" / "road.pt", weights_only=True)

    @pytest.fixture
    def authors(self, shared_dir: Path) -> Callable[[str], Any]:
        return lambda name: torch.load(shared_dir / "reference" / "authors_program" / name, weights_only=True)

    @pytest.mark.parametrize("side", ["32", "64"])
    def test_road(self, road: Any, side: str) -> None:
        """All twelve removed sets of each image at once."""
        case = road["sets"][side]
        names = list(case["masks_no_tiebreak"])
        removed = torch.stack([case["masks_no_tiebreak"][name] == 0 for name in names], 1)
        expected = torch.stack([case["imputed_noise0"][name] for name in names], 1)
        torch.testing.assert_close(impute(case["images"], removed), expected, rtol=0, atol=1e-4)

    def test_the_system_of_road(self, road: Any) -> None:
        case, system = road["sets"]["32"], road["system_32_image0_morf_0p1"]
        removed = case["masks_no_tiebreak"]["morf_0.1"][0] == 0
        matrix, known = literal_system(case["images"][0], removed)
        torch.testing.assert_close(matrix, -system["A"])
        torch.testing.assert_close(known, -system["b"], rtol=0, atol=1e-7)

    @pytest.mark.parametrize("name", ["smooth_64", "noise_64", "ties_64", "many_zeros_64", "224"])
    def test_the_authors_program(self, authors: Callable[[str], Any], name: str) -> None:
        case = authors("road_224.pt") if name == "224" else authors("road_64.pt")[name]
        removed = ~torch.stack([*case["morf_binary"], *case["lerf_binary"]])
        expected = torch.stack([*case["morf"], *case["lerf"]])
        found = impute(case["image"].unsqueeze(0), removed.unsqueeze(0), all_removed="zero")[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_the_authors_tiny_system(self, authors: Callable[[str], Any]) -> None:
        case = authors("road_64.pt")["tiny_system"]
        removed = case["binary_mask_1_is_kept"] == 0
        matrix, known = literal_system(case["image"], removed)
        torch.testing.assert_close(matrix.abs(), case["A"].abs())
        torch.testing.assert_close(torch.linalg.solve(matrix, known), torch.linalg.solve(case["A"], case["b"]))
        torch.testing.assert_close(one(case["image"], removed), case["imputed"], rtol=0, atol=1e-4)

    def test_the_authors_noise(self, authors: Callable[[str], Any]) -> None:
        """Their noise is drawn for the missing pixels in row-major order."""
        case = authors("road_64.pt")["noise_on"]
        removed = case["mask"] >= torch.quantile(case["mask"], 0.8)
        drawn = torch.randn(3, int(removed.sum()), generator=torch.Generator().manual_seed(123))
        added = torch.zeros(1, 3, 64, 64)
        added[0, :, removed] = 0.01 * drawn
        torch.testing.assert_close(one(case["image"], removed, noise=added), case["output"], rtol=0, atol=1e-4)
