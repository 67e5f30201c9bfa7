"""From confidences to Average Drop, Increase in Confidence, Average Gain and areas under curves, per image."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.types import ScoreKind
from tame.utils.checks import InputError


def scores(logits: Tensor, score: ScoreKind) -> Tensor:
    """Confidence in every class from ``logits`` (B, K), at least in float32: (B, K) in [0, 1].

    Args:
        logits: (B, K).
        score: ``softmax`` over the classes, or the ``sigmoid`` of each.

    Example:
        >>> scores(torch.zeros(1, 4, dtype=torch.bfloat16), "softmax").tolist()
        [[0.25, 0.25, 0.25, 0.25]]
        >>> scores(torch.zeros(1, 3), "sigmoid").tolist()
        [[0.5, 0.5, 0.5]]
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.softmax(1) if score == "softmax" else logits.sigmoid()


def confidences(logits: Tensor, targets: Tensor, score: ScoreKind) -> Tensor:
    """Confidence in ``targets`` (B,) from ``logits`` (B, K), see `scores`: (B,) in [0, 1].

    Example:
        >>> confidences(torch.zeros(2, 4), torch.tensor([0, 3]), "softmax").tolist()
        [0.25, 0.25]
    """
    return scores(logits, score).gather(1, targets.unsqueeze(1)).squeeze(1)


def drop(confidence: Tensor, masked: Tensor) -> Tensor:
    """Relative drop of confidence per image, ``max(0, p - p') / p`` (Grad-CAM++); 0 where p = 0.

    Args:
        confidence: p on the plain image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].

    Returns:
        (B,) in [0, 1]. Average Drop is 100 times its mean.

    Example:
        >>> drop(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).tolist()
        [0.5, 0.0]
    """
    zero = confidence == 0  # and not `confidence > 0`, which would hide a NaN
    return torch.where(zero, 0, (confidence - masked).clamp(min=0) / torch.where(zero, 1, confidence))


def increase(confidence: Tensor, masked: Tensor, margin: float) -> Tensor:
    """Whether the masked image raises the confidence by more than ``margin``, per image.

    Args:
        confidence: p on the plain image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].
        margin: A strict comparison (0) counts rounding: an all-ones mask then "increases" about 40 % of
            the images. 1e-5 is above float32's rounding.

    Returns:
        Bool (B,). Increase in Confidence is 100 times its mean.

    Example:
        >>> increase(torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.500001]), margin=1e-5).tolist()
        [True, False]
    """
    return masked - confidence > margin


def gain(confidence: Tensor, masked: Tensor) -> Tensor:
    """Relative gain of confidence per image, ``max(0, p' - p) / (1 - p)`` (Opti-CAM); 0 where p = 1.

    Args:
        confidence: p on the plain image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].

    Returns:
        (B,) in [0, 1]. Average Gain is 100 times its mean.

    Example:
        >>> gain(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).tolist()
        [0.0, 0.5]
    """
    rest = 1 - confidence
    return (masked - confidence).clamp(min=0) / torch.where(rest == 0, 1, rest)  # 0 / 1 where p = 1, and NaN stays


def area_under_curve(confidences: Tensor) -> Tensor:
    """Area under each image's confidence along S equal steps, ``((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S`` (RISE).

    Args:
        confidences: One row per step, both ends included, (S + 1, B) in [0, 1] with S >= 1.

    Returns:
        (B,) in [0, 1], the trapezoids' mean. Insertion and Deletion are 100 times its mean.

    Raises:
        InputError: If there are not two rows or more.

    Example:
        >>> area_under_curve(torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]])).tolist()
        [0.5, 0.75]
    """
    if confidences.ndim != 2 or len(confidences) < 2:
        raise InputError(f"expected confidences of shape (S + 1, B) with S >= 1, got {tuple(confidences.shape)}")
    return (confidences[:-1] + confidences[1:]).sum(dim=0) / (2 * (len(confidences) - 1))
