"""Slow literal twins of what the package computes cleverly, straight from the papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tame.attention import TAME


def literal_class_maps(mechanism: TAME, features: Sequence[Tensor]) -> Tensor:
    """All class maps as in Fig. 3: convolve, normalise, add, activate, upsample, concatenate, convolve."""
    sides = [feature.shape[2:] for feature in features]
    size = max(sides, key=lambda side: side[0] * side[1])
    if mechanism.output_size == "first":
        size = torch.Size(min(side, 56) for side in sides[0])
    activate = F.relu if mechanism.activation == "relu" else torch.sigmoid
    branches = []
    for index, feature in enumerate(features):
        out = mechanism.convs[index](feature)
        if len(mechanism.bns):
            out = mechanism.bns[index](out)
        if mechanism.skip:
            out = out + feature
        out = activate(out)
        branches.append(F.interpolate(out, size=size, mode="bilinear", align_corners=False))
    return mechanism.fuser(torch.cat(branches, dim=1))
