"""Initialise an attention mechanism from the classifier's gradients (not in the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tame.attention.lcam import LCAM
from tame.attention.mechanism import TAME
from tame.utils.checks import InputError

_HEADROOM = 1.25
"""Offset that makes negative features positive, as a multiple of the magnitude of each channel's minimum."""


def can_start_from_classifier(attention: nn.Module) -> bool:
    """Whether `initialise_from_gradients` supports an attention mechanism."""
    return isinstance(attention, LCAM) or (isinstance(attention, TAME) and attention.skip and len(attention.bns) > 0)


@torch.no_grad()
def initialise_from_gradients(
    attention: TAME | LCAM, rows: Tensor, branch: int, features: Sequence[Tensor], targets: Tensor, spread: float = 1.0
) -> None:
    """Initialise an attention mechanism with the classifier's gradients, in place.

    From random fusion rows, about a million images are needed until each class is learned. Here the residual branches
    start at zero (weight 0 of the batch norms), so that every branch returns its features unchanged, and the fusion row
    of class n is the mean gradient of logit n with respect to the features of ``branch``: Grad-CAM's weights, averaged
    over images. The mean over classes is subtracted from the rows (if there are several), they are scaled so that the
    maps of the ``targets`` have standard deviation ``spread``, and the bias makes every class's map zero on average.
    The rows of the other branches are zero. L-CAM has no branches: its rows are applied to the features directly.

    Args:
        attention: The mechanism, changed in place; T-TAME needs skip connections and batch norm.
        rows: d logit_n / d feature_c, averaged over positions and images, (K, C_branch).
        branch: Index of the branch that the rows are for.
        features: Features of some images, each (B, C_i, h_i, w_i), from which the statistics of the batch norms, the
            scale and the bias are computed.
        targets: Classes of these images, (B,).
        spread: Standard deviation of a target's map over its positions.

    Raises:
        InputError: For a mechanism without skip connections or batch norm, rows of another shape, or maps of the
            targets that are constant.
    """
    if not can_start_from_classifier(attention):
        raise InputError(
            "initialisation from the classifier needs skip connections and batch norm; "
            "choose the initialisation (init) random"
        )
    if rows.shape != (attention.num_classes, attention.channels[branch]):
        raise InputError(
            f"expected rows of shape ({attention.num_classes}, {attention.channels[branch]}), got {tuple(rows.shape)}"
        )
    if isinstance(attention, TAME):
        _pass_features_on(attention, features)
    start = sum(attention.channels[:branch])
    weight = torch.zeros_like(attention.fuser.weight)
    weight[:, start : start + rows.shape[1], 0, 0] = rows - rows.mean(0) if len(rows) > 1 else rows
    attention.fuser.weight.copy_(weight)
    bias: Any = attention.fuser.bias
    bias.zero_()
    attention.eval()
    own = attention(features, targets.unsqueeze(1))  # (B, 1, h, w)
    found = own.std((2, 3)).mean()
    if not found > 0:
        raise InputError(
            "the maps made of the classifier's gradients are constant; choose the initialisation (init) random"
        )
    attention.fuser.weight.mul_(spread / found)
    means = torch.cat([branch.mean((0, 2, 3)) for branch in attention.branches(features)])
    bias.copy_(-(attention.fuser.weight.flatten(1) @ means))


def _pass_features_on(attention: TAME, features: Sequence[Tensor]) -> None:
    """Make every branch return its features unchanged, and set the statistics of its batch norm.

    Features with negative values are shifted by a positive bias, since the ReLU would set them to zero.
    """
    parts: Any = zip(attention.convs, attention.bns, features, strict=True)
    for conv, norm, feature in parts:
        norm.weight.zero_()
        norm.bias.copy_(_HEADROOM * (-feature.amin((0, 2, 3))).clamp(min=0))
        out = conv(feature)
        norm.running_mean.copy_(out.mean((0, 2, 3)))
        norm.running_var.copy_(out.var((0, 2, 3)))
