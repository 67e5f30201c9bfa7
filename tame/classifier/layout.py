"""Tell channels-first from channels-last feature maps by their aspect ratio."""

from __future__ import annotations

from torch import Tensor

SLACK = 2
"""Tolerance in pixels of a feature map's aspect ratio for non-square inputs, since strides and windows round sizes."""


def has_aspect(height: int, width: int, size: tuple[int, ...]) -> bool:
    """Whether a feature map of height x width has the aspect ratio of an input of ``size`` (H, W).

    A square input has square maps. Otherwise ``|h W - w H| <= SLACK max(H, W)``.

    Example:
        >>> has_aspect(7, 7, (224, 224)), has_aspect(7, 8, (224, 224)), has_aspect(1, 2, (64, 96))
        (True, False, True)
    """
    slack = 0 if size[0] == size[1] else SLACK * max(size)
    return abs(height * size[1] - width * size[0]) <= slack


def channels_first(value: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a channels-first view (B, C, h, w) of a feature map (B, C, h, w) or (B, h, w, C).

    Channels are last if the second and third axes have the aspect ratio of the input and the last two have not. If
    both pairs have it (56 channels of 56 x 56) or neither has, channels are first.

    Args:
        value: Feature map with four axes.
        size: Height and width of the classifier's input.

    Example:
        >>> import torch
        >>> [channels_first(torch.rand(shape), (32, 48)).shape[1] for shape in ((1, 99, 4, 6), (1, 4, 6, 99))]
        [99, 99]
    """
    _, second, third, fourth = value.shape
    last = has_aspect(second, third, size) and not has_aspect(third, fourth, size)
    return value.permute(0, 3, 1, 2) if last else value
