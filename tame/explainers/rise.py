"""RISE: random masks, weighted by the confidence in the masked image."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.target_logits import target_logits
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method
from tame.functional.scores import confidences
from tame.utils.checks import InputError
from tame.utils.devices import rows_per_pass

PUBLISHED_MASKS = 8000
"""Number N of masks in the paper (4000 for VGG-16) and in the program released with T-TAME, for every network."""

CELLS = 7
"""Number s of cells per side of a mask's grid."""

P1 = 0.5
"""Probability p1 that a cell stays visible."""


class RandomMasks(NamedTuple):
    """N smooth random masks for one image size, stored as s x s bits and two integers each.

    Attributes:
        grids: Which cells stay visible, bool (N, s, s).
        shifts: First row and first column of the crop, int64 (N, 2).
        size: (H, W).
        p1: Probability that a cell stays visible.
    """

    grids: Tensor
    shifts: Tensor
    size: tuple[int, int]
    p1: float = P1

    def to(self, device: torch.device) -> RandomMasks:
        """Return the same masks on ``device``."""
        return self._replace(grids=self.grids.to(device), shifts=self.shifts.to(device))

    def render(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Compute the masks ``start`` to ``stop``: upsample the grid to (s + 1) cells per side, crop s of them.

        A cell has ``c = ceil(side / s)`` pixels. Pixel d of ``D = (s + 1) c`` lies at ``x_d = (d + 1/2) s / D - 1/2``
        between the cells' centres 0 ... s - 1, mirrored at the first and the last one, and takes
        ``max(0, 1 - |x_d - k|)`` of cell k. Unlike `torch.nn.functional.interpolate`, which repeats the outer cells,
        this mirrors them, like the authors' program.

        Args:
            start: First mask.
            stop: Mask after the last one; clipped to N.
            dtype: Float type of the masks.

        Returns:
            (n, H, W) in [0, 1], 1 is visible.

        Source: Petsiuk et al., BMVC 2018, Sec. 3.2.

        Example:
            >>> masks = RandomMasks(torch.ones(3, 7, 7, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.int64), (4, 6))
            >>> masks.render(1, 9).shape
            torch.Size([2, 4, 6])
        """
        rows, columns = (self._crops(axis, start, stop).to(dtype) for axis in (0, 1))
        return rows @ self.grids[start:stop].to(dtype) @ columns.mT

    def _crops(self, axis: int, start: int, stop: int) -> Tensor:
        """Return the weight of each cell in every pixel along an axis: (n, side, s), float32."""
        cells, side, device = self.grids.shape[-1], self.size[axis], self.shifts.device
        whole = 2 * (cells + 1) * cell_side(cells, side)  # 2 D: x_d is counted in 1 / (2 D), so it is an integer
        pixels = self.shifts[start:stop, axis, None] + torch.arange(side, device=device)  # (n, side)
        last = (cells - 1) * whole
        places = last - (last - ((2 * pixels + 1) * cells - whole // 2).abs()).abs()
        distances = (places.unsqueeze(2) - whole * torch.arange(cells, device=device)).abs()
        return (1 - distances / whole).clamp(min=0)


def cell_side(cells: int, side: int) -> int:
    """Return the pixels per cell, such that ``cells`` cells cover ``side`` pixels."""
    return -(-side // cells)


@lru_cache(maxsize=8)
def draw_masks(number: int, size: tuple[int, int], cells: int = CELLS, p1: float = P1, seed: int = 0) -> RandomMasks:
    """Draw masks for images of ``size``, the same in every process and on every device; recent sizes are cached.

    Args:
        number: N.
        size: (H, W).
        cells: Cells s per side.
        p1: Probability that a cell stays visible.
        seed: Seed of the generator.

    Example:
        >>> draw_masks(3, (8, 8)).grids.shape
        torch.Size([3, 7, 7])
    """
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(number, cells, cells, generator=generator) < p1
    shifts = [torch.randint(cell_side(cells, side), (number,), generator=generator) for side in size]
    return RandomMasks(grids, torch.stack(shifts, dim=1), size, p1)


class RISE(CheckedExplainer):
    """RISE: the mean of random masks, weighted by the confidence in what each leaves visible.

    ``map = 1 / (N p1) sum_n p_t(m_n * x) m_n`` with x the normalised image, so that hidden pixels have the
    dataset's mean colour whatever the backbone's own masking, m_n a random grid of s x s cells upsampled bilinearly
    and shifted at random, and p_t the score of the target. All images share the same masks. The program released with
    T-TAME uses the logit of the target instead of p_t.

    Costs N forward passes per image and no backward pass. Masks are drawn once per image size and rendered a few at a
    time: memory holds one batch of masked images and one map per image, whatever N.

    Args:
        classifier: The classifier to explain.
        masks: Number N of masks.
        batch_size: Masked images per pass through the classifier; default: by the device, see `rows_per_pass`. It
            changes the maps by rounding only.
        seed: Seed of the masks.
        draw: Function of an image size (H, W) that returns the masks; default: `draw_masks` with s = 7 and p1 = 0.5.
        weighting: Weight masks by the target's confidence or logit.

    Raises:
        InputError: For less than one mask, or a batch size below 1.

    Source: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, Eq. 6.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> RISE(FrozenClassifier(spec, net, ["0"]), masks=10)(torch.rand(2, 3, 8, 8), torch.tensor([0, 1])).shape
        torch.Size([2, 8, 8])
    """

    def __init__(
        self,
        classifier: FrozenClassifier,
        masks: int = PUBLISHED_MASKS,
        batch_size: int | None = None,
        seed: int = 0,
        draw: Callable[[tuple[int, int]], RandomMasks] | None = None,
        weighting: Literal["confidence", "logit"] = "confidence",
    ) -> None:
        super().__init__(classifier)
        if masks < 1:
            raise InputError(f"expected at least one mask, got masks={masks}")
        if batch_size is None:
            batch_size = rows_per_pass(classifier.mean.device)
        if batch_size < 1:
            raise InputError(f"expected a batch size of 1 or more, got {batch_size}")
        self.batch_size = batch_size
        self.draw = draw or (lambda size: draw_masks(masks, size, seed=seed))
        self.weighting = weighting

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, H, W) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        masks = self.draw((images.shape[-2], images.shape[-1])).to(images.device)
        parts = zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True)
        with torch.no_grad():
            return torch.cat([self._weighted_sum(masks, *part) for part in parts]) / (len(masks.grids) * masks.p1)

    def _weighted_sum(self, masks: RandomMasks, images: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of all masks, weighted per image, of at most ``batch_size`` images: (b, H, W)."""
        images = self.classifier.normalise(images)
        total = torch.zeros_like(images[:, 0], memory_format=torch.contiguous_format)
        count = max(1, self.batch_size // max(1, len(images)))  # masks per pass
        for start in range(0, len(masks.grids), count):
            with torch.autocast(images.device.type, enabled=False):
                chunk = masks.render(start, start + count, images.dtype)  # (n, H, W)
            masked = (chunk[:, None, None] * images).flatten(0, 1)  # (n * b, C, H, W)
            logits = self.classifier.module(masked.contiguous(memory_format=torch.channels_last))
            weights = self._weights(logits, targets.repeat(len(chunk))).view(len(chunk), -1)  # (n, b)
            with torch.autocast(images.device.type, enabled=False):
                total += torch.tensordot(weights.to(total), chunk, dims=([0], [0]))
        return total

    def _weights(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weight of each mask (R,) from logits (R, K) and targets (R,)."""
        if self.weighting == "logit":
            return target_logits(logits, targets)
        return confidences(logits, targets, self.classifier.spec.score)


EXPLAINERS.register("rise")(
    Method(
        title="RISE",
        summary="average of random masks, weighted by the score of the masked image",
        cost="8000 forward as published (masks=8000)",
        build=RISE,
        paper="Petsiuk et al., BMVC 2018",
    )
)
