"""Which axes of a value are channels, height and width."""

from __future__ import annotations

from torch import Tensor

SLACK = 2
"""Pixels by which a feature map of an image that is not square may miss its aspect: strides round, windows crop."""


def has_aspect(height: int, width: int, size: tuple[int, ...]) -> bool:
    """Whether a feature map of height x width can be one of an input of ``size`` (H, W).

    A square input has square maps. Else ``|h W - w H| <= SLACK max(H, W)``.

    Example:
        >>> has_aspect(7, 7, (224, 224)), has_aspect(7, 8, (224, 224)), has_aspect(1, 2, (64, 96))
        (True, False, True)
    """
    slack = 0 if size[0] == size[1] else SLACK * max(size)
    return abs(height * size[1] - width * size[0]) <= slack


def channels_first(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a feature map (B, C, h, w) of a value (B, C, h, w) or (B, h, w, C), as a view.

    Channels are last where the second and third axis have the aspect of the input and the last two have not. Where
    both have it (56 channels of 56 x 56) or neither has, channels are first.

    Args:
        value: With four axes.
        size: Height and width of the classifier's input.

    Example:
        >>> import torch
        >>> [channels_first(torch.rand(shape), (32, 48)).shape[1] for shape in ((1, 99, 4, 6), (1, 4, 6, 99))]
        [99, 99]
    """
    _, second, third, fourth = value.shape
    last = has_aspect(second, third, size) and not has_aspect(third, fourth, size)
    return value.permute(0, 3, 1, 2) if last else value
