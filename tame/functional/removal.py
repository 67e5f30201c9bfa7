"""Select the pixels that ROAD, insertion and deletion remove, by the ranks of a map."""

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
        InputError: If it is out of range.
    """
    if not 0 < remove <= 1:
        raise InputError(f"expected remove, a fraction of the pixels, in (0, 1], got {remove}")


def removal_ranks(maps: Tensor, order: RemovalOrder) -> Tensor:
    """Return the position of each pixel in the order of removal, starting at 0.

    Args:
        maps: (B, H, W), without NaN.
        order: ``morf``: most relevant pixels first; ``lerf``: least relevant first. Among pixels of equal value, the
            one with the lower index comes first.

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
    """Remove exactly ``floor(v HW)`` pixels of each map for every fraction v, also if values are tied.

    Args:
        maps: (B, H, W), without NaN.
        removes: R fractions v, each in (0, 1].
        order: Order of removal, see `removal_ranks`.

    Returns:
        Bool (B, R, H, W), True where removed.

    Raises:
        InputError: For a fraction out of range.

    Source: Rong et al., "ROAD", ICML 2022; exact counts are our addition, so that ties do not remove more pixels.

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
    """Remove all pixels that reach the (1 - v) quantile of their map, as the authors' released program does.

    ``lerf`` does the same with 1 - map. All pixels equal to the quantile are removed: for a map that is mostly zeros,
    v = 0.5 removes all pixels.

    Args:
        maps: (B, H, W) in [0, 1].
        removes: R fractions v, each in (0, 1].
        order: Order of removal, ``morf`` or ``lerf``.

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
    """Return quantiles (B, R) of values (B, n), with linear interpolation.

    `torch.quantile` is limited to 16 million values, and its float32 levels are sometimes off by one pixel.
    """
    ordered = values.sort(dim=1).values
    places = levels * (values.shape[1] - 1)
    below = places.floor().long()
    above = (below + 1).clamp(max=values.shape[1] - 1)
    weight = (places - below).to(values.dtype)
    return torch.lerp(ordered[:, below], ordered[:, above], weight)
