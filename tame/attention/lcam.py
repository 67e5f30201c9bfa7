"""L-CAM: the one-layer attention mechanism T-TAME grew from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tame.checks import InputError


class LCAM(nn.Module):
    """One 1x1 convolution from a feature map to class maps (Gkartzonika et al., ECCV Workshops 2022).

    Args:
        channels: C of the single feature map, as a sequence of one.
        num_classes: K.

    Raises:
        InputError: For more than one feature map.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(channels) != 1:
            raise InputError(f"expected one feature layer for L-CAM, got {len(channels)}")
        self.channels = tuple(channels)
        self.num_classes = num_classes
        self.op = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, features: Sequence[Tensor], classes: Tensor | None = None) -> Tensor:
        """Compute class maps before the sigmoid, see `TAME.forward`."""
        (feature,) = features
        if classes is None or classes.ndim == 1:
            maps = self.op(feature)
            return maps if classes is None else maps[:, classes]
        weight, bias = self.op.weight.flatten(1)[classes], self.op.bias[classes]  # type: ignore[index] # never None
        return (weight @ feature.flatten(2)).unflatten(2, feature.shape[2:]) + bias[..., None, None]
