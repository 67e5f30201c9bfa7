"""Train one fusion row that all classes share, so that few images improve all classes, also unseen ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tame.attention.mechanism import TAME, SharedRow


@torch.no_grad()
def share_row(attention: TAME, features: Sequence[Tensor]) -> None:
    """Add a fusion row that all classes share and make it the only trainable parameter, in place.

    Separate fusion rows only improve for classes that occur in training. What makes a position important regardless of
    the class (outlines, texture, background) is common to all classes and is learned by one row of sum C_i values.
    `fold_shared_row` ends this mode.

    Args:
        attention: The mechanism, initialised from the classifier.
        features: Features of some images, each (B, C_i, h_i, w_i). The row is scaled by their standard deviation, so
            that steps of equal size change the maps about equally for all branches.
    """
    attention.eval()
    scale = [
        (branch.var((0, 2, 3)).clamp(min=1e-6) * branch.shape[1]).sqrt()  # the mean only adds a constant to the maps
        for branch in attention.branches(features)
    ]
    attention.requires_grad_(False)
    attention.shared_row = SharedRow(torch.cat(scale))


@torch.no_grad()
def fold_shared_row(attention: TAME) -> None:
    """Add the shared row, if there is one, to the row of every class and remove it, in place; maps do not change."""
    if attention.shared_row is not None:
        weight = attention.fuser.weight
        weight.copy_(attention.shared_row(weight.flatten(1)).view_as(weight))
        attention.shared_row = None
        attention.requires_grad_(True)
