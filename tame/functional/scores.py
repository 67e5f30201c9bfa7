"""Confidences, and per-image values of Average Drop, Increase in Confidence, Average Gain and areas under curves."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.types import ScoreKind
from tame.utils.checks import InputError


def scores(logits: Tensor, score: ScoreKind) -> Tensor:
    """Convert logits to confidences, in float32 or higher precision.

    Args:
        logits: (B, K).
        score: ``softmax`` over all classes, ``sigmoid`` per class, or ``probability`` (the logits are log p).

    Returns:
        (B, K) in [0, 1].

    Example:
        >>> scores(torch.zeros(1, 4, dtype=torch.bfloat16), "softmax").tolist()
        [[0.25, 0.25, 0.25, 0.25]]
        >>> scores(torch.zeros(1, 3), "sigmoid").tolist()
        [[0.5, 0.5, 0.5]]
        >>> scores(torch.tensor([[0.75, 0.5]]).log(), "probability").tolist()
        [[0.75, 0.5]]
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if score == "probability":
        return logits.exp()
    return logits.softmax(1) if score == "softmax" else logits.sigmoid()


def confidences(logits: Tensor, targets: Tensor, score: ScoreKind) -> Tensor:
    """Confidence in the target class of each image, see `scores`.

    Args:
        logits: (B, K).
        targets: Class of each image, (B,) int64.
        score: ``softmax``, ``sigmoid`` or ``probability``.

    Returns:
        (B,) in [0, 1].

    Example:
        >>> confidences(torch.zeros(2, 4), torch.tensor([0, 3]), "softmax").tolist()
        [0.25, 0.25]
    """
    return scores(logits, score).gather(1, targets.unsqueeze(1)).squeeze(1)


def drop(confidence: Tensor, masked: Tensor) -> Tensor:
    """Relative drop of confidence per image, ``max(0, p - p') / p`` (Grad-CAM++); 0 where p = 0.

    Args:
        confidence: p on the unmasked image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].

    Returns:
        (B,) in [0, 1]. Average Drop is 100 times its mean.

    Example:
        >>> drop(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).tolist()
        [0.5, 0.0]
    """
    zero = confidence == 0  # `confidence > 0` would hide NaN
    return torch.where(zero, 0, (confidence - masked).clamp(min=0) / torch.where(zero, 1, confidence))


def increase(confidence: Tensor, masked: Tensor, margin: float) -> Tensor:
    """Whether the masked image raises the confidence by more than ``margin``, per image.

    Args:
        confidence: p on the unmasked image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].
        margin: Smallest difference that counts (exclusive). With 0, rounding counts as an increase: an all-ones mask
            then "increases" the confidence of about 40 % of the images. 1e-5 is above the rounding of float32.

    Returns:
        (B,), 1 where it does, otherwise 0; NaN where a confidence is NaN, as for `drop` and `gain`. Increase in
        Confidence is 100 times its mean.

    Example:
        >>> increase(torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.500001]), margin=1e-5).tolist()
        [1.0, 0.0]
    """
    difference = masked - confidence
    return torch.where(difference.isnan(), difference, (difference > margin).to(difference.dtype))


def gain(confidence: Tensor, masked: Tensor) -> Tensor:
    """Relative gain of confidence per image, ``max(0, p' - p) / (1 - p)`` (Opti-CAM); 0 where p = 1.

    Args:
        confidence: p on the unmasked image, (B,) in [0, 1].
        masked: p' on the masked image, (B,) in [0, 1].

    Returns:
        (B,) in [0, 1]. Average Gain is 100 times its mean.

    Example:
        >>> gain(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).tolist()
        [0.0, 0.5]
    """
    rest = 1 - confidence
    return (masked - confidence).clamp(min=0) / torch.where(rest == 0, 1, rest)  # 0 / 1 where p = 1; NaN stays NaN


def area_under_curve(confidences: Tensor) -> Tensor:
    """Area under each image's confidence over S equal steps, ``((p_0 + p_S) / 2 + p_1 + ... + p_(S-1)) / S`` (RISE).

    Args:
        confidences: One row per step, including both ends, (S + 1, B) in [0, 1] with S >= 1.

    Returns:
        (B,) in [0, 1], by the trapezoidal rule. Insertion and Deletion are 100 times its mean.

    Raises:
        InputError: For fewer than two rows.

    Example:
        >>> area_under_curve(torch.tensor([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]])).tolist()
        [0.5, 0.75]
    """
    if confidences.ndim != 2 or len(confidences) < 2:
        raise InputError(f"expected confidences of shape (S + 1, B) with S >= 1, got {tuple(confidences.shape)}")
    return (confidences[:-1] + confidences[1:]).sum(dim=0) / (2 * (len(confidences) - 1))
