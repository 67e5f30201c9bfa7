"""Controls: maps computed without the classifier. A useful method must beat them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method

GRID = 7
"""Cells per side of the `random` map: about the resolution of a CAM, so that its regions are as large."""


class Control(CheckedExplainer):
    """A map computed from the images alone.

    Args:
        classifier: Used only to check images and targets.
        draw: Function of images (B, C, H, W) that returns maps (B, h, w).
    """

    def __init__(self, classifier: FrozenClassifier, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__(classifier)
        self.draw = draw

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps, whatever the ``targets``."""
        return self.draw(images)


def centre_maps(images: Tensor) -> Tensor:
    """Return a Gaussian in the middle of the image, with sigma a quarter of the side, at full resolution.

    ``exp(-(y^2 + x^2) / 2)`` with y and x the distances from the middle in units of H / 4 and W / 4. Images often
    show their subject in the middle, so that many published methods do not beat this map.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, H, W), the same map for every image.

    Example:
        >>> centre_maps(torch.zeros(1, 3, 4, 4))[0, 0].mul(100).round().tolist()
        [11.0, 29.0, 29.0, 11.0]
    """
    batch, _, height, width = images.shape

    def bell(side: int) -> Tensor:
        distance = torch.arange(side, device=images.device, dtype=torch.float32) - (side - 1) / 2
        return torch.exp(-((distance / (side / 4)) ** 2) / 2)

    return torch.outer(bell(height), bell(width)).expand(batch, height, width)


def all_ones_maps(images: Tensor) -> Tensor:
    """Return ones, (B, H, W): the image stays unmasked, so that AD and IC are 0."""
    batch, _, height, width = images.shape
    return torch.ones(batch, height, width, device=images.device)


def fake_cam_maps(images: Tensor) -> Tensor:
    """Return ones except for the top left pixel, (B, H, W): a good AD without any explanation.

    Source: Poppi et al., "Revisiting the Evaluation of Class Activation Mapping", CVPR-W 2021.
    """
    maps = all_ones_maps(images)
    maps[:, 0, 0] = 0
    return maps


def random_maps(images: Tensor) -> Tensor:
    """Return uniform noise on a `GRID` x `GRID` grid, seeded by the image's values.

    An image gets the same map in every batch, process and run and on every device.

    Args:
        images: (B, C, H, W) in [0, 1].

    Returns:
        (B, GRID, GRID) in [0, 1).
    """

    def draw(image: Tensor) -> Tensor:
        return torch.rand(GRID, GRID, generator=torch.Generator().manual_seed(seed_of(image)))

    if not len(images):
        return torch.empty(0, GRID, GRID, device=images.device)
    return torch.stack([draw(image) for image in images]).to(images.device)


def seed_of(image: Tensor) -> int:
    """Return a seed computed from an image's values, the same in every batch, process and run and on every device."""
    digest = hashlib.sha256(image.detach().to("cpu", torch.float32).numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _factory(draw: Callable[[Tensor], Tensor]) -> Callable[[FrozenClassifier], Control]:
    def build(classifier: FrozenClassifier) -> Control:
        return Control(classifier, draw)

    return build


for _name, _title, _summary, _draw in (
    ("all_ones", "All ones", "control: the image stays unmasked", all_ones_maps),
    ("centre", "Centre", "control: a Gaussian in the middle of the image", centre_maps),
    ("fake_cam", "Fake-CAM", "control: ones except for one pixel (Poppi et al., CVPR-W 2021)", fake_cam_maps),
    ("random", "Random", "control: uniform noise on a coarse grid", random_maps),
):
    EXPLAINERS.register(_name)(
        Method(
            title=_title,
            summary=_summary,
            cost="none",
            build=_factory(_draw),
            control=True,
            minmax_only=_name in ("all_ones", "fake_cam"),
        )
    )
