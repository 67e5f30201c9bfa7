"""Class activation maps from perturbed forward passes, one per channel of a layer, without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.gradients import as_map
from tame.classifier.layout import channels_first
from tame.classifier.split import split_at
from tame.classifier.target_logits import target_logits
from tame.explainers.cams import LayerExplainer, layer_output, weighted_sum
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError
from tame.utils.devices import rows_per_pass


class PerturbationCAM(LayerExplainer):
    """The channels of a layer, weighted by the classifier's response when each of them is perturbed.

    All pairs of an image and a channel are stacked into full batches, whose size changes the maps by rounding only.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.
        batch_size: Perturbed images per pass through the classifier; default: by the device, see `rows_per_pass`.

    Raises:
        InputError: If the layer does not exist or does not return a feature map, or for a batch size below 1.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None, batch_size: int | None = None) -> None:
        super().__init__(classifier, layer)
        if batch_size is None:
            batch_size = rows_per_pass(classifier.mean.device)
        if batch_size < 1:
            raise InputError(f"expected a batch size of 1 or more, got {batch_size}")
        self.batch_size = batch_size

    def pairs(self, images: Tensor, channels: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the image and channel indices of each batch of rows: first all channels of the first image."""
        for rows in torch.arange(len(images) * channels, device=images.device).split(self.batch_size):
            yield rows // channels, rows % channels


class ScoreCAM(PerturbationCAM):
    """Score-CAM: the channels of a layer, weighted by the target's score on the image masked with each of them.

    ``w = softmax_c(logit_t(x * s(up(A_c))))``, ``map = ReLU(sum_c w_c A_c)``, with x the *normalised* image
    (masking "vit": masked pixels take the dataset's mean, whatever the classifier's own masking), up the bilinear
    upsampling to the image and ``s(u) = (u - min u) / (max u - min u + 1e-8)``. A constant channel masks the whole
    image.

    As in the library `grad-cam`: the upsampling has ``align_corners=True``, unlike elsewhere in this package, and the
    softmax is over plain logits (the paper first subtracts the logit of a baseline image, which changes no weight).
    The library amplifies the rounding errors of a constant channel into a mask; here it stays constant.

    Costs C + 1 forward passes per image, with C the channels of the layer.

    Source: Wang et al., "Score-CAM", CVPR-W 2020, Algorithm 1.
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        activations = layer_output(self.classifier, self.layer, images)
        return weighted_sum(self.weights(images, targets, activations), activations).relu()

    def weights(self, images: Tensor, targets: Tensor, activations: Tensor) -> Tensor:
        """Return the weights (B, C) of the channels of ``activations`` (B, C, h, w): they sum to 1."""
        with torch.no_grad():
            inputs = self.classifier.normalise(images)
            scores = []
            for image, channel in self.pairs(images, activations.shape[1]):
                masks = self._masks(activations[image, channel], (images.shape[-2], images.shape[-1]))
                logits = self.classifier.module(inputs[image] * masks)
                scores.append(target_logits(logits.float(), targets[image]))
            return torch.cat(scores).view(activations.shape[:2]).softmax(1)

    @staticmethod
    def _masks(channels: Tensor, size: tuple[int, int]) -> Tensor:
        """Return masks (R, 1, H, W) in [0, 1] of channels (R, h, w)."""
        flat = channels.amax((1, 2)) == channels.amin((1, 2))
        masks = F.interpolate(channels.unsqueeze(1), size, mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return (masks - low) / (high - low + 1e-8).masked_fill(flat.view(-1, 1, 1, 1), torch.inf)


class AblationCAM(PerturbationCAM):
    """Ablation-CAM: the channels of a layer, weighted by the fraction of the target's logit that is lost without them.

    ``w_c = (y - y_c) / y``, ``map = ReLU(sum_c w_c A_c)``, with y the target's logit and y_c the logit after channel c
    is set to one value at all positions, prefix tokens included. As in the library `grad-cam`, this value is 0, as in
    the paper, if the smallest value of A is exactly 0 (after a ReLU), otherwise ``min A - 1e7``, a value that is never
    active: harmless before a ReLU, drastic before a norm or attention. A negative y flips all signs, as in the paper;
    if y is exactly 0, the weight is ``y - y_c``. In its inner batch, the library recomputes the minimum after each
    ablated row, so that the value decreases from row to row; here it is the same for all channels, as in the library
    with a batch size of 1.

    Only the layers after the target layer are recomputed for each channel, see `split_at`. Costs one pass up to the
    layer and C + 1 passes from there, with C the channels of the layer.

    Source: Desai and Ramaswamy, "Ablation-CAM", WACV 2020, Sec. 3.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None, batch_size: int | None = None) -> None:
        super().__init__(classifier, layer, batch_size)
        self.split = split_at(classifier, self.layer)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        with torch.no_grad():
            values = self.split.before(images)
            activations = as_map(self.classifier, values[0], images.shape[2:])
            return weighted_sum(self.weights(values, targets, images.shape[2:]), activations.float()).relu()

    def weights(self, values: tuple[Tensor, ...], targets: Tensor, size: tuple[int, ...]) -> Tensor:
        """Return the weights (B, C) of the channels.

        Args:
            values: Output of `SplitClassifier.before`: A as maps or tokens, and the other values that are needed.
            targets: Class of each image, (B,).
            size: Height and width of the images.
        """

        def by_channel(output: Tensor) -> Tensor:
            """Return a view of A with channels second: (R, C, h, w), or with all tokens (R, C, n)."""
            return channels_first(output, size) if output.ndim == 4 else output.mT

        output = values[0]
        low = output.flatten(1).amin(1)
        exact = low.to(torch.promote_types(low.dtype, torch.float32)) - 1e7
        lowest = exact.clamp(min=torch.finfo(low.dtype).min).to(low.dtype)  # half precision has no -1e7
        off = torch.where(low == 0, 0, lowest).view(-1, *[1] * (output.ndim - 2))  # (B, 1, 1) or (B, 1)
        whole = self._scores(_rows(values, torch.arange(len(output), device=output.device)), targets)
        without = []
        for image, channel in self.pairs(output, by_channel(output).shape[1]):
            copies = _rows(values, image)
            by_channel(copies[0])[torch.arange(len(image), device=image.device), channel] = off[image]
            without.append(self._scores(copies, targets[image]))
        lost = whole.unsqueeze(1) - torch.cat(without).view(len(output), -1)  # (B, C)
        return lost / torch.where(whole == 0, 1, whole).unsqueeze(1)

    def _scores(self, values: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Return the targets' logits (R,) of values with R rows."""
        return target_logits(self.split.after(*values).float(), targets)


def _rows(values: tuple[Tensor, ...], image: Tensor) -> tuple[Tensor, ...]:
    """Return copies of the rows ``image`` (R,) of every value."""
    return tuple(value[image] for value in values)  # keeps the memory format, unlike index_select


EXPLAINERS.register("ablationcam")(
    Method(
        title="Ablation-CAM",
        summary="channels weighted by the fraction of the logit that is lost without them",
        cost="C + 1 forward, from the layer on (C channels)",
        build=AblationCAM,
        paper="Desai and Ramaswamy, WACV 2020",
    )
)
EXPLAINERS.register("scorecam")(
    Method(
        title="Score-CAM",
        summary="channels weighted by the logit of the image masked with each of them",
        cost="C + 1 forward (C channels)",
        build=ScoreCAM,
        paper="Wang et al., CVPR-W 2020",
    )
)
