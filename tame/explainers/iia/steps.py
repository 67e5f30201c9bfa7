"""The straight path from the mean colour to an image, in steps."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.utils.checks import InputError


def steps_to_one(number: int, like: Tensor) -> Tensor:
    """Return 0, 1 / n, ..., 1, rounded to float32 as in the authors' program: (n + 1,), like ``like``."""
    return torch.linspace(0, 1, number + 1).to(like)


def image_steps(classifier: FrozenClassifier, images: Tensor, fractions: Tensor) -> Tensor:
    """Return images on the path from the mean colour, which is zero after normalisation: (n * B, C, H, W).

    Args:
        classifier: The classifier, for its mean colour.
        images: (B, C, H, W) in [0, 1].
        fractions: Fractions of the path, (n,); all images at the first fraction come first.
    """
    return (classifier.mean + fractions.view(-1, 1, 1, 1, 1) * (images - classifier.mean)).flatten(0, 1)


def check_steps(number: int, batch_size: int) -> None:
    """Check the number of steps and the batch size.

    Raises:
        InputError: If one of them is below 1.
    """
    if number < 1 or batch_size < 1:
        raise InputError(f"expected at least 1 step and 1 image per pass, got {number} and {batch_size}")
