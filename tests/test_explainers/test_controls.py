"""Controls by hand."""

from __future__ import annotations

import math

import torch

from tame.explainers.controls import GRID, all_ones_maps, centre_maps, fake_cam_maps, random_maps


def images(batch: int = 5, height: int = 12, width: int = 8) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_centre_literal_twin() -> None:
    maps = centre_maps(images())
    for y in range(12):
        for x in range(8):
            expected = math.exp(-((y - 5.5) ** 2) / (2 * 3.0**2) - (x - 3.5) ** 2 / (2 * 2.0**2))
            assert math.isclose(maps[0, y, x].item(), expected, rel_tol=1e-5)


def test_centre_is_symmetric_and_the_same_for_all() -> None:
    maps = centre_maps(images())
    assert maps.shape == (5, 12, 8)
    torch.testing.assert_close(maps, maps.flip(1, 2))
    assert torch.equal(maps[0], maps[4])


def test_all_ones() -> None:
    assert torch.equal(all_ones_maps(images()), torch.ones(5, 12, 8))


def test_fake_cam_lacks_one_pixel() -> None:
    maps = fake_cam_maps(images())
    assert maps[:, 0, 0].eq(0).all() and maps.sum().item() == 5 * (12 * 8 - 1)


def test_random_depends_on_the_image_only() -> None:
    maps = random_maps(images())
    assert maps.shape == (5, GRID, GRID)
    assert torch.equal(random_maps(images()[[3, 1]]), maps[[3, 1]])
    assert len({tuple(each.flatten().tolist()) for each in maps}) == 5
    assert maps.min().item() >= 0 and maps.max().item() < 1
    changed = images()
    changed[0, 0, 0, 0] += 1e-3
    assert not torch.equal(random_maps(changed)[0], maps[0])


def test_random_does_not_depend_on_the_layout_in_memory() -> None:
    given = images().to(memory_format=torch.channels_last)
    assert torch.equal(random_maps(given), random_maps(images()))


def test_random_stays_the_same_between_releases() -> None:
    """Published tables name this control: its numbers must not drift."""
    first = random_maps(torch.zeros(1, 1, 2, 2))[0, 0, :3]
    torch.testing.assert_close(first, torch.tensor([0.7109074, 0.8234261, 0.0579439]), rtol=0, atol=1e-6)
