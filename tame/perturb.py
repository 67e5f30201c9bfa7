"""Masked passes through a classifier, made once and shared by all metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.checks import InputError, check_maps, check_targets
from tame.functional.masking import apply_mask, keep_top, scale_and_upsample
from tame.types import MapScaling, MaskingKind


class PlainScores(NamedTuple):
    """What the classifier says of unmasked images.

    Attributes:
        targets: Model truth, argmax of the logits, (B,) int64.
        confidence: Softmax score p of the model truth, (B,) float32.
        logits: (B, K).
    """

    targets: Tensor
    confidence: Tensor
    logits: Tensor


class UsableMaps(NamedTuple):
    """Maps that can be scaled, and which ones carried nothing.

    Attributes:
        maps: (B, h, w) float32, finite.
        constant: Bool (B,): all values equal; min-max scaling makes the map all ones.
        invalid: Bool (B,): NaN or infinite values; the map was replaced by all ones. Never also constant.
    """

    maps: Tensor
    constant: Tensor
    invalid: Tensor


def confidences(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax score of ``targets`` (B,) from ``logits`` (B, K), in float32 whatever the logits' type: (B,)."""
    return logits.float().softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)


def plain_confidences(classifier: FrozenClassifier, images: Tensor) -> PlainScores:
    """Classify images (B, C, H, W) in [0, 1] without a mask."""
    logits = classifier.logits(images)
    targets = logits.argmax(1)
    return PlainScores(targets, confidences(logits, targets), logits)


def usable_maps(maps: Tensor) -> UsableMaps:
    """Replace maps that hold NaN or infinite values by all ones, and say which ones carry nothing.

    An all-ones map leaves the image as it is. Such images count with AD 0 and IC 0: look at how many there are.

    Args:
        maps: An explainer's maps, (B, h, w).

    Example:
        >>> usable_maps(torch.tensor([[[1.0, float("nan")]], [[2.0, 2.0]], [[0.0, 1.0]]]))
        UsableMaps(maps=tensor([[[1., 1.]],
            [[2., 2.]],
            [[0., 1.]]]), constant=tensor([False,  True, False]), invalid=tensor([ True, False, False]))
    """
    maps = maps.detach().float()
    span = maps.amax((1, 2)) - maps.amin((1, 2))
    invalid = ~span.isfinite()  # NaN and infinite values reach the span; so does a span beyond float32
    return UsableMaps(torch.where(invalid.view(-1, 1, 1), 1, maps), span == 0, invalid)


def masked_confidences(
    classifier: FrozenClassifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    keeps: Sequence[float],
    scalings: Sequence[MapScaling],
    masking: MaskingKind,
    batch_size: int,
) -> Tensor:
    """Confidence p' of the targets when only the most relevant pixels remain.

    Each map is scaled, upsampled to the image, thresholded and multiplied onto the image. The masked inputs of
    all scalings and keeps are stacked into full batches for the classifier; the result does not depend on
    ``batch_size`` or on which images come together (up to float32's rounding in the classifier).

    Args:
        classifier: The classifier.
        images: (B, C, H, W) in [0, 1].
        maps: Unscaled maps (B, h, w). Those with NaN or infinite values become all ones, see `usable_maps`.
        targets: Class of each image, (B,).
        keeps: Fractions of the pixels to keep, each in (0, 1].
        scalings: Readings of the maps.
        masking: Kind of masking.
        batch_size: Rows per pass through the classifier.

    Returns:
        (len(scalings), len(keeps), B), float32.

    Raises:
        InputError: For maps or targets of another shape, no keep or scaling, a keep outside (0, 1] or a batch
            size below 1.
    """
    if not keeps or not scalings:
        raise InputError(f"expected at least one keep and one scaling, got {list(keeps)} and {list(scalings)}")
    check_maps(maps, len(images))
    check_targets(targets, len(images), classifier.spec.num_classes)
    maps = usable_maps(maps).maps
    size = (images.shape[-2], images.shape[-1])
    images = images.float()

    def masked_inputs() -> Iterator[Tensor]:
        for scaling in scalings:
            scaled = scale_and_upsample(maps, size, scaling)
            for keep in keeps:
                yield apply_mask(images, keep_top(scaled, keep), classifier.normalise, masking)

    logits = [classifier.module(rows) for rows in _full_batches(masked_inputs(), batch_size)]
    asked = targets.repeat(len(scalings) * len(keeps))
    return confidences(torch.cat(logits), asked).view(len(scalings), len(keeps), len(images))


def _full_batches(parts: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Cut a stream of tensors into batches of exactly ``batch_size`` rows, the last one shorter."""
    if batch_size < 1:
        raise InputError(f"expected a batch size of 1 or more, got {batch_size}")
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= batch_size:
            rows = torch.cat(waiting)
            yield rows[:batch_size]
            waiting = [rows[batch_size:]]
    rest = torch.cat(waiting)
    if len(rest):
        yield rest
