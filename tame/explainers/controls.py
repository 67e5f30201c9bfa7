"""Controls: maps that know nothing of the classifier. A method must beat them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method

GRID = 7
"""Cells per side of the `random` map: about the resolution of a CAM, so that its blobs are as large."""


class Control(CheckedExplainer):
    """A map computed from the images alone.

    Args:
        classifier: Names the shape of images and the classes, for the checks; never asked.
        draw: Maps (B, h, w) of images (B, C, H, W).
    """

    def __init__(self, classifier: FrozenClassifier, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__(classifier)
        self.draw = draw

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Draw the maps; ``targets`` do not matter."""
        return self.draw(images)


def centre_maps(images: Tensor) -> Tensor:
    """Gaussian in the middle of the image, sigma a quarter of the side, at full resolution.

    ``exp(-(y^2 + x^2) / 2)`` with y and x the distances from the middle in units of H / 4 and W / 4. Photographs
    show their subject in the middle: many published methods do not beat this map.

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
    """Ones everywhere: the image stays as it is, so AD and IC are 0. Returns (B, H, W)."""
    batch, _, height, width = images.shape
    return torch.ones(batch, height, width, device=images.device)


def fake_cam_maps(images: Tensor) -> Tensor:
    """Ones but for the top left pixel: good AD, no explanation. Returns (B, H, W).

    Source: Poppi et al., "Revisiting the Evaluation of Class Activation Mapping", CVPR-W 2021; Opti-CAM repeats
    the warning.
    """
    maps = all_ones_maps(images)
    maps[:, 0, 0] = 0
    return maps


def random_maps(images: Tensor) -> Tensor:
    """Uniform noise on a `GRID` x `GRID` grid, seeded by the image's own bytes.

    The same image gets the same map whatever its place in a batch, the process, the device or the run.

    Args:
        images: (B, C, H, W) in [0, 1].

    Returns:
        (B, GRID, GRID) in [0, 1).
    """

    def draw(image: Tensor) -> Tensor:
        digest = hashlib.sha256(image.detach().to("cpu", torch.float32).numpy().tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return torch.rand(GRID, GRID, generator=generator)

    if not len(images):
        return torch.empty(0, GRID, GRID, device=images.device)
    return torch.stack([draw(image) for image in images]).to(images.device)


def _factory(draw: Callable[[Tensor], Tensor]) -> Callable[[FrozenClassifier], Control]:
    def build(classifier: FrozenClassifier) -> Control:
        return Control(classifier, draw)

    return build


for _name, _title, _summary, _draw in (
    ("all_ones", "All ones", "control: the image stays as it is", all_ones_maps),
    ("centre", "Centre", "control: a Gaussian in the middle of the image", centre_maps),
    ("fake_cam", "Fake-CAM", "control: all ones but for one pixel (Poppi et al., CVPR-W 2021)", fake_cam_maps),
    ("random", "Random", "control: uniform noise on a coarse grid", random_maps),
):
    EXPLAINERS.register(_name)(
        Method(
            title=_title,
            summary=_summary,
            cost="none",
            build=_factory(_draw),
            minmax_only=_name in ("all_ones", "fake_cam"),
        )
    )
