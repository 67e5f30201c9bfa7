"""The T-TAME attention mechanism and its ablations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tame.types import MaskedPart
from tame.utils.checks import InputError

_RELEASED_LARGEST_SIDE = 56


class SharedRow(nn.Module):
    """Adds one learned row to the fusion rows of all classes: ``row_n + shared / scale``.

    Args:
        scale: Scale of the row in each fused channel, (C,).
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros_like(scale))
        self.register_buffer("scale", scale)

    def forward(self, rows: Tensor) -> Tensor:
        """Return fusion rows (..., C) with the shared row added."""
        return rows + self.shared / self.scale


class TAME(nn.Module):
    """Computes one map per class from several feature maps (T-TAME, Fig. 3, Eq. 5-10).

    Branch i: ``A_i = ReLU(BN(Conv1x1(L_i)) + L_i)``. The branches are upsampled bilinearly to one size,
    concatenated and fused by ``Conv1x1`` into K class maps.

    The implementation is exact but cheaper. A 1x1 convolution commutes with bilinear interpolation, so each branch is
    fused at its own resolution and the N results are upsampled and added, if they are fewer than the branch's channels.
    Only the fusion rows of the requested classes are applied. In eval mode batch norm and skip connection are folded
    into the branch's convolution; a branch whose batch norm has weight 0, as after initialisation from the classifier,
    only adds a bias.

    Args:
        channels: Number C_i of channels of each feature map.
        num_classes: Number K of classes.
        skip: Add the branch's input to its output (``False`` is an ablation).
        batch_norm: Use batch normalisation.
        activation: Activation of the branches, ``relu`` or ``sigmoid``.
        branch_channels: Output channels of every branch, which needs ``skip=False``; default: C_i.
        output_size: Size of the class maps: that of the ``largest`` feature map, or that of the ``first`` one, at most
            56 x 56 (the authors' released program).
        smooth: Side of the window over which class maps are averaged, odd; 1 for no smoothing. Not in the paper:
            neighbouring tokens of a transformer are less correlated than neighbours in a feature map.

    Raises:
        InputError: For options that contradict each other, or an even window.

    Example:
        >>> mechanism = TAME(channels=[4, 8], num_classes=10).eval()
        >>> features = (torch.rand(2, 4, 14, 14), torch.rand(2, 8, 7, 7))
        >>> mechanism(features).shape  # all classes
        torch.Size([2, 10, 14, 14])
        >>> mechanism(features, torch.tensor([[3], [7]])).shape  # one class per image
        torch.Size([2, 1, 14, 14])
    """

    masks: MaskedPart = "image"

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        skip: bool = True,
        batch_norm: bool = True,
        activation: Literal["relu", "sigmoid"] = "relu",
        branch_channels: int | None = None,
        output_size: Literal["largest", "first"] = "largest",
        smooth: int = 1,
    ) -> None:
        super().__init__()
        if smooth < 1 or smooth % 2 == 0:
            raise InputError(f"expected an odd window to smooth class maps with, got {smooth}")
        if skip and branch_channels is not None:
            raise InputError("expected branch_channels only without skip connections (skip=False)")
        self.channels = tuple(channels)
        self.num_classes = num_classes
        self.skip = skip
        self.activation = activation
        self.output_size = output_size
        self.smooth = smooth
        widths = [branch_channels or width for width in channels]
        self.convs = nn.ModuleList(nn.Conv2d(C, width, 1) for C, width in zip(channels, widths, strict=True))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for width in widths if batch_norm)
        self.fuser = nn.Conv2d(sum(widths), num_classes, 1)
        # branches and what they were folded from, in one value: other threads may fold at once
        self._folded: tuple[list[tuple[Tensor | None, Tensor]], list[Tensor], list[float]] = [], [], []
        self.shared_row: SharedRow | None = None  # set while a shared row is trained, see `tame.attention.shared`

    def forward(self, features: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        """Compute class maps before the sigmoid.

        Args:
            features: One (B, C_i, h_i, w_i) per branch.
            classes: Requested classes, int64: (N,) for all images, or (B, N) per image; default: all K.

        Returns:
            (B, N, h, w).

        Raises:
            InputError: If the number of features or their channels do not match this mechanism.
        """
        self._check(features)
        size = self._size(features)
        rows, bias = self.fuser.weight.flatten(1), self.fuser.bias  # (K, sum of widths), (K,)
        if classes is not None:
            rows, bias = rows[classes], bias[classes]  # type: ignore[index] # never None
        if self.shared_row is not None:
            rows = self.shared_row(rows)
        parts = rows.split([conv.out_channels for conv in self._convs()], dim=-1)  # each (..., N, width)
        total: Tensor | None = None
        for branch, part in zip(self.branches(features), parts, strict=True):
            if part.shape[-2] > branch.shape[1]:  # more classes than channels: upsampling the channels is cheaper
                branch = _resize(branch, size)
            fused = (part @ branch.flatten(2)).unflatten(2, branch.shape[2:])  # (B, N, h_i, w_i)
            fused = _resize(fused, size)
            total = fused if total is None else total + fused
        if total is None:
            raise InputError("expected at least one feature map, got none")
        if self.smooth > 1:
            total = F.avg_pool2d(total, self.smooth, 1, self.smooth // 2, count_include_pad=False)
        return total + bias[..., None, None]  # type: ignore[index] # never None

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Compute the branches' activations A_i, each (B, width_i, h_i, w_i)."""
        activate = F.relu if self.activation == "relu" else torch.sigmoid
        if self.training:
            return [activate(self._linear(index, feature)) for index, feature in enumerate(features)]
        return [
            activate(_at_every_position(feature, weight, bias))
            for feature, (weight, bias) in zip(features, self._fold(), strict=True)
        ]

    def _linear(self, index: int, feature: Tensor) -> Tensor:
        """Return branch ``index`` before its activation, with the statistics of the batch in training mode."""
        out = self.convs[index](feature)
        if len(self.bns):
            out = self.bns[index](out)
        return out + feature if self.skip else out

    def _fold(self) -> list[tuple[Tensor | None, Tensor]]:
        """Return convolution, batch norm and skip as one weight and bias per branch, cached until a value changes.

        Values are compared, which is cheaper than folding: PyTorch's version counter misses ``weight.data.mul_(2)``.
        """
        if torch.is_grad_enabled():
            return [self._fold_branch(index) for index in range(len(self.convs))]
        tensors = [*self.convs.parameters(), *self.bns.parameters(), *self.bns.buffers()]
        numbers = [norm.eps for norm in self.bns if isinstance(norm, nn.BatchNorm2d)]
        folded, known, known_numbers = self._folded
        if numbers != known_numbers or len(known) != len(tensors) or not all(map(_same, known, tensors)):
            known = [tensor.clone() for tensor in tensors]  # before folding: another thread may train it meanwhile
            folded = [self._fold_branch(index) for index in range(len(self.convs))]
            self._folded = folded, known, numbers
        return folded

    def _fold_branch(self, index: int) -> tuple[Tensor | None, Tensor]:
        """Return weight (width, C) and bias of branch ``index``; the weight is None if it is the identity."""
        conv = self._convs()[index]
        weight, bias = conv.weight.flatten(1), conv.bias
        if len(self.bns):
            norm: Any = self.bns[index]
            learns = torch.is_grad_enabled() and norm.weight.requires_grad
            if self.skip and not learns and not norm.weight.any():
                return None, norm.bias
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * scale.unsqueeze(1)
            bias = (bias - norm.running_mean) * scale + norm.bias
        if self.skip:
            weight = weight + torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        return weight, bias  # type: ignore[return-value] # bias is never None

    def _size(self, features: Sequence[Tensor]) -> tuple[int, int]:
        if self.output_size == "first":
            height, width = features[0].shape[2:]
            return min(height, _RELEASED_LARGEST_SIDE), min(width, _RELEASED_LARGEST_SIDE)
        height, width = max((feature.shape[2:] for feature in features), key=lambda side: side[0] * side[1])
        return height, width

    def _convs(self) -> list[nn.Conv2d]:
        return list(self.convs)  # type: ignore[arg-type] # made of Conv2d only

    def _check(self, features: Sequence[Tensor]) -> None:
        got = tuple(feature.shape[1] for feature in features)
        if got != self.channels:
            raise InputError(f"expected feature maps of {self.channels} channels, got {got}")


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in type, device and values."""
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly, unless they already have this size."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _at_every_position(feature: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
    """Apply a 1x1 convolution with ``weight`` (width, C) to a map (B, C, h, w): (B, width, h, w)."""
    if weight is None:
        return feature + bias.view(1, -1, 1, 1)
    # for features in channels-last memory format this is one matrix product without a copy
    return F.linear(feature.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
