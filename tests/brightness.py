"""A classifier whose answers can be computed by hand."""

from __future__ import annotations

import torch
from torch import nn

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing


def brightness_classifier(
    side: int = 4, gain: float = 1.0, mean: float = 0.0, std: float = 1.0, channels: int = 3
) -> FrozenClassifier:
    """Class 0 scores ``gain`` times the sum of the normalised pixels, class 1 scores 0."""
    head = nn.Linear(channels, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[gain * side * side] * channels, [0.0] * channels]))
        head.bias.zero_()
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    preprocessing = Preprocessing(side, side, "bilinear", (mean,) * channels, (std,) * channels)
    spec = BackboneSpec("brightness", nn.Identity, preprocessing, class_names=("bright", "dark"))
    return FrozenClassifier(spec, net, layers=["0"])
