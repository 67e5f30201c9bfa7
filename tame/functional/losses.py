"""The terms of T-TAME's loss, in the form of the paper and in that of the authors' released program."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tame.types import ScoreKind


def cross_entropy(logits: Tensor, targets: Tensor, score: ScoreKind) -> Tensor:
    """Mean of ``-log p``, where p is the confidence in the target class.

    This is ``softplus(-logit)`` for ``sigmoid``, and ``-logit`` for ``probability``.

    Args:
        logits: (B, K).
        targets: Class of each image, (B,) int64.
        score: How logits become confidences, see `tame.functional.scores.scores`.

    Returns:
        Scalar.

    Example:
        >>> import torch
        >>> round(cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]), "sigmoid").exp().item(), 4)
        2.0
    """
    if score == "softmax":
        return F.cross_entropy(logits, targets)
    chosen = logits.gather(1, targets.unsqueeze(1)).float()
    return (-chosen if score == "probability" else F.softplus(-chosen)).mean()


def area_paper(maps: Tensor) -> Tensor:
    """Mean of ``M ** 0.3`` over all values (T-TAME, Eq. 16).

    The gradient at M = 0 is infinite; the sigmoid in float32 is above 0 for inputs above -88.

    Args:
        maps: (B, N, h, w) in [0, 1].

    Returns:
        Scalar.
    """
    return maps.pow(0.3).mean()


def area_released(maps: Tensor) -> Tensor:
    """Mean of ``(M + 0.0005) ** 0.3`` over all values, as in the authors' released program.

    Args:
        maps: (B, N, h, w) in [0, 1].

    Returns:
        Scalar.
    """
    return (maps + 0.0005).pow(0.3).mean()


def _squared_differences(maps: Tensor) -> Tensor:
    return (maps[..., 1:, :] - maps[..., :-1, :]).square().sum() + (maps[..., :, 1:] - maps[..., :, :-1]).square().sum()


def variation_paper(maps: Tensor) -> Tensor:
    """Sum of squared differences of neighbours, divided by twice the number S of values (T-TAME, Eq. 17).

    Args:
        maps: (B, N, h, w) in [0, 1].

    Returns:
        Scalar.
    """
    return _squared_differences(maps) / (2 * maps.numel())


def variation_released(maps: Tensor) -> Tensor:
    """Sum of squared differences of neighbours plus 0.3 times the sum of squared border values, divided by 2B.

    As in the authors' released program; corners count twice. Since it is divided by the batch size only, it is N*h*w
    times larger than the form of the paper.

    Args:
        maps: (B, N, h, w) in [0, 1].

    Returns:
        Scalar.
    """
    rows = maps[..., 0, :].square().sum() + maps[..., -1, :].square().sum()
    columns = maps[..., :, 0].square().sum() + maps[..., :, -1].square().sum()
    return (_squared_differences(maps) + 0.3 * (rows + columns)) / (2 * maps.shape[0])
