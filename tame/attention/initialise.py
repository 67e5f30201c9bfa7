"""Initialise an attention mechanism from the classifier itself, beyond the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tame.attention.lcam import LCAM
from tame.attention.mechanism import TAME
from tame.utils.checks import InputError

_HEADROOM = 1.25
"""How far features are lifted, in units of the lowest value of each channel that was seen."""


def can_start_from_classifier(attention: nn.Module) -> bool:
    """Whether `initialise_from_gradients` knows where to write the classifier's gradients."""
    return isinstance(attention, LCAM) or (isinstance(attention, TAME) and attention.skip and len(attention.bns) > 0)


@torch.no_grad()
def initialise_from_gradients(
    attention: TAME | LCAM, rows: Tensor, branch: int, features: Sequence[Tensor], targets: Tensor, spread: float = 1.0
) -> None:
    """Start a mechanism where the classifier already is, in place.

    Random fusion rows need about a million images before each class is learned. Here the residual branches start
    at zero (batch norm's weight is 0), so that every branch passes its features on, and class n's fusion
    row is the mean gradient of logit n with respect to branch ``branch``: Grad-CAM's weights, averaged over images.
    Rows of several classes are centred over them; all are scaled so that the maps of the ``targets`` have standard
    deviation ``spread``; the bias makes every class's map zero on average. The other branches' rows are zero. L-CAM has
    no branches: its rows read the features as they are.

    Args:
        attention: Changed in place; T-TAME needs skip connections and batch norm.
        rows: d logit_n / d feature_c, averaged over positions and images, (K, C_branch).
        branch: The branch that the rows belong to.
        features: Features of some images, each (B, C_i, h_i, w_i): they set the batch norms' statistics, spread
            and bias.
        targets: Classes of these images, (B,).
        spread: Standard deviation of a target's map over its positions.

    Raises:
        InputError: For a mechanism without skip connections or batch norm, or rows of another shape.
    """
    if not can_start_from_classifier(attention):
        raise InputError("initialising from the classifier needs skip connections and batch norm; use --init random")
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
        raise InputError("the classifier's gradients say nothing about these features; use --init random")
    attention.fuser.weight.mul_(spread / found)
    means = torch.cat([branch.mean((0, 2, 3)) for branch in attention.branches(features)])
    bias.copy_(-(attention.fuser.weight.flatten(1) @ means))


def _pass_features_on(attention: TAME, features: Sequence[Tensor]) -> None:
    """Let every branch pass its features on, and its batch norm know their statistics.

    Features of either sign are lifted above the ReLU, which would lose what the negative ones say.
    """
    parts: Any = zip(attention.convs, attention.bns, features, strict=True)
    for conv, norm, feature in parts:
        norm.weight.zero_()
        norm.bias.copy_(_HEADROOM * (-feature.amin((0, 2, 3))).clamp(min=0))
        out = conv(feature)
        norm.running_mean.copy_(out.mean((0, 2, 3)))
        norm.running_var.copy_(out.var((0, 2, 3)))
