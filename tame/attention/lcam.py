"""L-CAM: the predecessor of T-TAME, an attention mechanism of one feature layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from tame.types import MaskedPart
from tame.utils.checks import InputError


class LCAMForm(NamedTuple):
    """Training options in which the published variants of L-CAM differ.

    Attributes:
        masks: What the map of the target class multiplies in the second pass: the ``image`` (L-CAM-Img), or the
            ``features`` that it was computed from (L-CAM-Fm).
        cross_entropy_only: Train without the area and variation terms (the A variants).
    """

    masks: MaskedPart
    cross_entropy_only: bool = False


LCAM_FORMS = {
    "lcam-img": LCAMForm("image"),
    "lcam-fm": LCAMForm("features"),
    "lcam-img-a": LCAMForm("image", cross_entropy_only=True),
    "lcam-fm-a": LCAMForm("features", cross_entropy_only=True),
}


class LCAM(nn.Module):
    """One 1x1 convolution from a feature map to class maps (Gkartzonika et al., ECCV Workshops 2022).

    The map has the size of the features: for VGG-16, 14 x 14 after the last convolution (``features.29``), and 7 x 7
    after the last max-pooling (``features.30``), the published 7x7 variant.

    Args:
        channels: Number C of channels of the feature map, a sequence of length one.
        num_classes: Number K of classes.
        masks: What the map multiplies in the second pass, see `LCAMForm`.

    Raises:
        InputError: For more than one feature map.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, masks: MaskedPart = "image") -> None:
        super().__init__()
        if len(channels) != 1:
            raise InputError(f"expected one feature layer for L-CAM, got {len(channels)}")
        self.channels = tuple(channels)
        self.num_classes = num_classes
        self.masks = masks
        self.op = nn.Conv2d(channels[0], num_classes, 1)

    @property
    def fuser(self) -> nn.Conv2d:
        """The convolution from `branches` to class maps, under the name that it has in `TAME`."""
        return self.op

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the input of the convolution, which is the feature map (B, C, h, w) itself."""
        return list(features)

    def forward(self, features: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        """Compute class maps before the sigmoid, see `TAME.forward`."""
        (feature,) = features
        if classes is None or classes.ndim == 1:
            maps = self.op(feature)
            return maps if classes is None else maps[:, classes]
        weight, bias = self.op.weight.flatten(1)[classes], self.op.bias[classes]  # type: ignore[index] # never None
        return (weight @ feature.flatten(2)).unflatten(2, feature.shape[2:]) + bias[..., None, None]
