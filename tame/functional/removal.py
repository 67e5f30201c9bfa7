"""Which pixels ROAD, insertion and deletion remove first."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import torch
from torch import Tensor

from tame.types import RemovalOrder
from tame.utils.checks import InputError


def check_remove(remove: float) -> None:
    """Check that ``remove`` is a fraction in (0, 1]; 50 % is 0.5.

    Raises:
        InputError: With the given number.
    """
    if not 0 < remove <= 1:
        raise InputError(f"expected remove, a fraction of the pixels, in (0, 1], got {remove}")


def removal_ranks(maps: Tensor, order: RemovalOrder) -> Tensor:
    """Return when each pixel is removed, 0 first.

    Args:
        maps: (B, H, W), without NaN.
        order: ``morf``: the most relevant pixels first, ``lerf``: the least relevant; among equals the lower index.

    Returns:
        int64 (B, H, W), a permutation of 0..HW - 1 per map.

    Example:
        >>> removal_ranks(torch.tensor([[[0.2, 0.9, 0.2]]]), "morf").tolist()
        [[[1, 0, 2]]]
    """
    flat = maps.flatten(1)  # (B, HW)
    pixels = flat.argsort(dim=1, descending=order == "morf", stable=True)
    positions = torch.arange(flat.shape[1], device=maps.device).expand_as(pixels)
    return torch.empty_like(pixels).scatter_(1, pixels, positions).view_as(maps)


def remove_exactly(maps: Tensor, removes: Sequence[float], order: RemovalOrder) -> Tensor:
    """Remove ``floor(v HW)`` pixels of each map for every fraction v, ties or not.

    Args:
        maps: (B, H, W), without NaN.
        removes: R fractions v, each in (0, 1].
        order: See `removal_ranks`.

    Returns:
        Bool (B, R, H, W), True where removed.

    Raises:
        InputError: For a fraction out of range.

    Source: Rong et al., "ROAD", ICML 2022; exact counts are ours, so that ties remove no more than asked.

    Example:
        >>> remove_exactly(torch.zeros(1, 1, 4), [0.25, 0.5], "lerf").int().tolist()
        [[[[1, 0, 0, 0]], [[1, 1, 0, 0]]]]
    """
    for remove in removes:
        check_remove(remove)
    pixels = maps[0].numel() if len(maps) else 0
    counts = torch.tensor([floor(remove * pixels + 1e-6) for remove in removes], device=maps.device)
    return removal_ranks(maps, order).unsqueeze(1) < counts.view(1, -1, 1, 1)


def remove_by_percentile(maps: Tensor, removes: Sequence[float], order: RemovalOrder) -> Tensor:
    """Remove every value that reaches the (1 - v) percentile of its map, as the authors' released program does.

    ``lerf`` does the same to 1 - map. All values that equal the percentile go: of a map that is mostly zeros, 50 %
    removes everything.

    Args:
        maps: (B, H, W) in [0, 1].
        removes: R fractions v, each in (0, 1].
        order: ``morf`` or ``lerf``.

    Returns:
        Bool (B, R, H, W), True where removed.

    Raises:
        InputError: For a fraction out of range.

    Example:
        >>> remove_by_percentile(torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]), [0.25, 0.5], "morf").int().tolist()
        [[[[0, 0, 0, 1]], [[1, 1, 1, 1]]]]
    """
    for remove in removes:
        check_remove(remove)
    values = maps if order == "morf" else 1 - maps
    levels = torch.tensor([1 - remove for remove in removes], device=maps.device, dtype=torch.float64)
    thresholds = _percentiles(values.flatten(1), levels)  # (B, R)
    return values.unsqueeze(1) >= thresholds.unsqueeze(2).unsqueeze(3)


def _percentiles(values: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles (B, R) of values (B, n), linear between neighbours.

    `torch.quantile` takes at most 16 million values and places float32 levels one pixel off now and then.
    """
    ordered = values.sort(dim=1).values
    places = levels * (values.shape[1] - 1)
    below = places.floor().long()
    above = (below + 1).clamp(max=values.shape[1] - 1)
    weight = (places - below).to(values.dtype)
    return torch.lerp(ordered[:, below], ordered[:, above], weight)
