"""Train one fusion row that all classes share: few images improve every class, also those never seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tame.attention.mechanism import TAME, SharedRow


@torch.no_grad()
def share_row(attention: TAME, features: Sequence[Tensor]) -> None:
    """Let training reach only a row that all classes share, in place; `fold_shared_row` ends it.

    Fusion rows of their own are learned for classes that training sees, and get no better for others. What makes
    a position worth keeping whatever the class (outlines, texture, background) is the same for all of them, and
    one row of sum C_i numbers holds it.

    Args:
        attention: Initialised from the classifier.
        features: Features of some images, each (B, C_i, h_i, w_i). They scale the row, so that a step of one size
            changes the maps about equally whichever branch it is in.
    """
    attention.eval()
    scale = [
        (branch.var((0, 2, 3)).clamp(min=1e-6) * branch.shape[1]).sqrt()  # the mean changes no map but by a constant
        for branch in attention.branches(features)
    ]
    attention.requires_grad_(False)
    attention.shared_row = SharedRow(torch.cat(scale))


@torch.no_grad()
def fold_shared_row(attention: TAME) -> None:
    """Add the shared row, if there is one, to every class's own, in place: an ordinary mechanism of the same maps."""
    if attention.shared_row is not None:
        weight = attention.fuser.weight
        weight.copy_(attention.shared_row(weight.flatten(1)).view_as(weight))
        attention.shared_row = None
        attention.requires_grad_(True)
