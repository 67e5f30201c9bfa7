"""L-CAM: the one-layer attention mechanism T-TAME grew from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from tame.types import MaskedPart
from tame.utils.checks import InputError


class LCAMForm(NamedTuple):
    """What tells the published forms of L-CAM apart, all in training.

    Attributes:
        masks: What the own class's map multiplies before the second pass: the ``image`` (L-CAM-Img), or the
            ``features`` that it was made from (L-CAM-Fm).
        cross_entropy_only: Train without area and variation (the A forms).
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

    The map is as large as the features: on VGG-16 14 x 14 from the last convolution (``features.29``), and 7 x 7 from
    the last max-pool (``features.30``), the published 7x7 form.

    Args:
        channels: C of the single feature map, as a sequence of one.
        num_classes: K.
        masks: See `LCAMForm`.

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
        """The convolution from `branches` to class maps, as `TAME` has it."""
        return self.op

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return what the convolution reads, the feature map (B, C, h, w) itself."""
        return list(features)

    def forward(self, features: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        """Compute class maps before the sigmoid, see `TAME.forward`."""
        (feature,) = features
        if classes is None or classes.ndim == 1:
            maps = self.op(feature)
            return maps if classes is None else maps[:, classes]
        weight, bias = self.op.weight.flatten(1)[classes], self.op.bias[classes]  # type: ignore[index] # never None
        return (weight @ feature.flatten(2)).unflatten(2, feature.shape[2:]) + bias[..., None, None]
