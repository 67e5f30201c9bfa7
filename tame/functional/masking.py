"""Scale, upsample and threshold maps, and mask images with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError


def min_max(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1]; a constant map becomes all ones.

    Args:
        maps: (B, h, w).

    Returns:
        (B, h, w) in [0, 1]: ``(m - min) / (max - min)`` per map.

    Example:
        >>> min_max(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]])).tolist()
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 1)


def drawable(maps: Tensor) -> tuple[Tensor, list[str | None]]:
    """Scale maps for pictures as `min_max` does, except that a map without positive evidence becomes all zeros.

    Args:
        maps: (B, h, w).

    Returns:
        (B, h, w) in [0, 1], and for each map None, ``no positive evidence`` (constant, not above 0) or ``invalid map``
        (NaN or infinite values); these two are all zeros.

    Example:
        >>> drawable(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]], [[2.0, 2.0]]]))[0].tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 1.0]]]
    """
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    invalid = ~(high - low).isfinite()
    empty = (low == high) & (high <= 0) & ~invalid
    notes = [
        "invalid map" if bad else "no positive evidence" if nothing else None
        for bad, nothing in zip(invalid.tolist(), empty.tolist(), strict=True)
    ]
    return torch.where((invalid | empty).view(-1, 1, 1), 0, min_max(maps)), notes


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, h, w) bilinearly (``align_corners=False``) to ``size`` = (H, W)."""
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)


def rank_scale(maps: Tensor) -> Tensor:
    """Replace the values of each map by their ranks / (HW - 1); tied values get their average rank.

    All maps then have the same distribution of values, so that a monotonic transformation of a map has no effect.

    Args:
        maps: (B, H, W).

    Returns:
        (B, H, W) in [0, 1]. A map of one pixel becomes 1.

    Example:
        >>> rank_scale(torch.tensor([[[5.0, 1.0, 5.0]]])).tolist()
        [[[0.75, 0.0, 0.75]]]
    """
    values, order = maps.flatten(1).sort(dim=1)  # (B, HW)
    batch, count = values.shape
    if count == 1:
        return torch.ones_like(maps)
    changes = torch.ones_like(values, dtype=torch.bool)
    changes[:, 1:] = values[:, 1:] != values[:, :-1]
    group = changes.cumsum(1) - 1 + count * torch.arange(batch, device=maps.device).unsqueeze(1)
    sizes = torch.bincount(group.flatten(), minlength=batch * count)  # number of pixels with each value
    ends = sizes.view(batch, count).cumsum(1).flatten()  # rank after the last pixel of each group
    twice = (2 * ends - sizes - 1)[group]  # twice the average rank, counted from 0, which is an integer
    ranks = torch.empty_like(values)
    ranks.scatter_(1, order, twice.to(values.dtype) / (2 * (count - 1)))
    return ranks.view_as(maps)


def scale_and_upsample(maps: Tensor, size: tuple[int, int], scaling: MapScaling) -> Tensor:
    """Prepare an explainer's maps for masking: scale to [0, 1], upsample, and replace values by ranks if requested.

    Args:
        maps: (B, h, w).
        size: Height and width (H, W) of the images.
        scaling: ``minmax`` or ``rank``.

    Returns:
        (B, H, W) in [0, 1], up to rounding. A constant map becomes exactly 1 (``rank``: 0.5) everywhere.
    """
    small = min_max(maps)
    constant = small.amin((1, 2), keepdim=True) == 1  # rounding of the upsampling would make ones unequal
    scaled = torch.where(constant, 1, upsample(small, size))
    return rank_scale(scaled) if scaling == "rank" else scaled


def check_keep(keep: float) -> None:
    """Check that ``keep`` is a fraction in (0, 1]; 50 % is 0.5.

    Raises:
        InputError: If it is out of range.
    """
    if not 0 < keep <= 1:
        raise InputError(f"expected keep, a fraction of the pixels, in (0, 1], got {keep}")


def soft_rank(maps: Tensor, levels: int = 32, temperature: float = 0.1) -> Tensor:
    """Replace the values of each map by soft ranks, which are differentiable and independent of scale and offset.

    ``r = mean_k sigmoid((m - q_k) / (temperature * std))`` with ``levels`` quantiles q_k of the map itself.
    `rank_scale` computes exact ranks.

    Args:
        maps: (B, h, w).
        levels: Number of quantiles.
        temperature: Width of the sigmoid, in standard deviations of the map.

    Returns:
        (B, h, w) in [0, 1]; 0.5 for a constant map, also one of a single pixel.
    """
    values = maps.flatten(1)  # (B, hw)
    centres = (torch.arange(levels, device=maps.device) + 0.5) / levels
    positions = (centres * values.shape[1]).long().clamp(max=values.shape[1] - 1)
    quantiles = values.sort(dim=1).values[:, positions]  # (B, levels)
    deviation = values.std(1, keepdim=True, correction=min(1, values.shape[1] - 1))  # 0 for a single pixel
    width = temperature * deviation.clamp(min=torch.finfo(maps.dtype).tiny)
    ranks = ((values.unsqueeze(2) - quantiles.unsqueeze(1)) / width.unsqueeze(2)).sigmoid().mean(2)
    return ranks.view_as(maps)


def soft_keep_top(ranks: Tensor, keep: Tensor, temperature: float = 0.05) -> Tensor:
    """Reduce ranks below 1 - keep towards 0, smoothly; the others keep their value. `keep_top` uses a hard threshold.

    Args:
        ranks: (B, h, w) in [0, 1].
        keep: Fraction of the pixels to keep, (B,) in [0, 1].
        temperature: Width of the smooth threshold, in ranks.

    Returns:
        (B, h, w) in [0, 1].
    """
    return ranks * ((ranks - (1 - keep).view(-1, 1, 1)) / temperature).sigmoid()


def keep_top(maps: Tensor, keep: float) -> Tensor:
    """Set values below the (1 - keep) quantile of each map to 0; the others keep their value.

    Args:
        maps: (B, H, W).
        keep: Fraction of the pixels to keep, in (0, 1].

    Returns:
        (B, H, W). Values equal to the quantile are kept, so that ties can keep more pixels than requested.

    Raises:
        InputError: If ``keep`` is not in (0, 1].

    Example:
        >>> keep_top(torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]), keep=0.5)
        tensor([[[0.0000, 0.0000, 0.3000, 0.4000]]])
    """
    check_keep(keep)
    if keep == 1:
        return maps
    # one map at a time, as older versions of PyTorch compute quantiles of at most 16 million values
    threshold = torch.stack([torch.quantile(values, 1 - keep) for values in maps.flatten(1)]).view(-1, 1, 1)
    return torch.where(maps < threshold, 0, maps)


def apply_mask(images: Tensor, masks: Tensor, normalise: Callable[[Tensor], Tensor], kind: MaskingKind) -> Tensor:
    """Mask images and normalise them for a classifier.

    ``cnn``: ``normalise(mask * image)``, removed pixels are black; ``vit``: ``mask * normalise(image)``,
    removed pixels are the dataset mean (T-TAME, Eq. 13 and 14).

    Args:
        images: (B, C, H, W) in [0, 1].
        masks: (B, H, W) in [0, 1].
        normalise: The classifier's own normalisation.
        kind: Kind of masking, ``cnn`` or ``vit``.

    Returns:
        (B, C, H, W), normalised.
    """
    masks = masks.unsqueeze(1)  # (B, 1, H, W)
    return normalise(masks * images) if kind == "cnn" else masks * normalise(images)
