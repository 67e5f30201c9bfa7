"""From confidences to Average Drop and Increase in Confidence, per image."""

from __future__ import annotations

import torch
from torch import Tensor


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
