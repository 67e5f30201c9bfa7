"""Train one fusion row that all classes share: few images improve every class, also those never seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tame.attention.mechanism import TAME


class SharedRow(nn.Module):
    """Adds one row to every class's fusion row: ``weight + shared / scale``.

    Args:
        scale: Root mean square of each fused channel times the root of its branch's width, (C,): a step of one
            size then changes the maps by about one size, whichever branch it is in.
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros_like(scale))
        self.register_buffer("scale", scale)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the fusion rows (K, C, 1, 1) with the shared row added."""
        return weight + (self.shared / self.scale).view(1, -1, 1, 1)


@torch.no_grad()
def share_row(attention: TAME, features: Sequence[Tensor]) -> None:
    """Let training reach only a row that all classes share, in place; `fold_shared_row` ends it.

    Fusion rows of their own are learned for classes that training sees, and get no better for others. What makes
    a position worth keeping whatever the class (outlines, texture, background) is the same for all of them, and
    one row of sum C_i numbers holds it.

    Args:
        attention: Initialised from the classifier.
        features: Features of some images, each (B, C_i, h_i, w_i), for the scale.
    """
    attention.eval()
    scale = [
        (branch.square().mean((0, 2, 3)).clamp(min=1e-6) * branch.shape[1]).sqrt()
        for branch in attention.branches(features)
    ]
    attention.requires_grad_(False)
    parametrize.register_parametrization(attention.fuser, "weight", SharedRow(torch.cat(scale)))


@torch.no_grad()
def fold_shared_row(attention: TAME) -> None:
    """Add the shared row to every class's own, in place: an ordinary mechanism again, of the same maps."""
    # A new layer: removing the parametrization would also break every copy of the old one, whose class they share.
    fuser = nn.utils.skip_init(nn.Conv2d, attention.fuser.in_channels, attention.num_classes, 1)
    fuser.weight, fuser.bias = nn.Parameter(attention.fuser.weight.clone()), attention.fuser.bias
    attention.fuser = fuser
    attention.requires_grad_(True)


def is_shared(attention: nn.Module) -> bool:
    """Whether `share_row` is in force."""
    fuser = getattr(attention, "fuser", None)
    return fuser is not None and parametrize.is_parametrized(fuser, "weight")
