"""Scores of a classifier on plain and on perturbed images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.functional.scores import confidences
from tame.perturbations.base import Perturbation
from tame.perturbations.names import confidence_column, kept_column
from tame.perturbations.passes import PassRows, PassSettings, Stopwatch, autocast
from tame.utils.checks import InputError, check_maps, check_targets


class PlainScores(NamedTuple):
    """Scores of unmasked images.

    Attributes:
        targets: The predicted class, argmax of the logits, (B,) int64.
        confidence: Score p of the predicted class, (B,) float32.
        logits: (B, K).
    """

    targets: Tensor
    confidence: Tensor
    logits: Tensor


class UsableMaps(NamedTuple):
    """Maps that can be scaled, and which of them carried no information.

    Attributes:
        maps: (B, h, w) float32, finite.
        constant: Bool (B,): all values equal; min-max scaling makes the map all ones.
        invalid: Bool (B,): NaN or infinite values; the map was replaced by all ones. Never also constant.
    """

    maps: Tensor
    constant: Tensor
    invalid: Tensor


def plain_scores(classifier: FrozenClassifier, images: Tensor, precision: str = "32") -> PlainScores:
    """Classify images (B, C, H, W) in [0, 1] as they are; for ``precision`` see `PassSettings`."""
    with autocast(images.device, precision):
        logits = classifier.logits(images).float()
    targets = logits.argmax(1)
    return PlainScores(targets, confidences(logits, targets, classifier.spec.score), logits)


def usable_maps(maps: Tensor) -> UsableMaps:
    """Replace maps that hold NaN or infinite values by all ones, and flag the maps that carry no information.

    An all-ones map leaves the image as it is, so such an image has AD 0 and IC 0; evaluations count these images.

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
    invalid = ~span.isfinite()  # NaN and infinite values make the span so, as does a span beyond float32
    return UsableMaps(torch.where(invalid.view(-1, 1, 1), 1, maps), span == 0, invalid)


class Scores(NamedTuple):
    """Scores of N perturbed versions of B images.

    Attributes:
        names: Names of the perturbed versions.
        confidence: Score p' of the targets, (N, B) float32.
        kept: Whether the target is still the top class, bool (N, B).
    """

    names: tuple[str, ...]
    confidence: Tensor
    kept: Tensor

    def columns(self) -> dict[str, Tensor]:
        """Return p', and whether the target is still the top class, (B,) each, by the names of a run's columns.

        Where p' is NaN there is no top class, and both are NaN.
        """
        unknown = self.confidence.isnan()
        kept = self.kept.float().masked_fill(unknown, math.nan) if unknown.any() else self.kept
        confidence = zip(map(confidence_column, self.names), self.confidence, strict=True)
        return dict(confidence) | dict(zip(map(kept_column, self.names), kept, strict=True))


def perturbed_scores(
    classifier: FrozenClassifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    indices: Tensor,
    perturbations: Sequence[Perturbation],
    passes: PassSettings | None = None,
) -> Scores:
    """Classify every perturbed version of a batch once.

    The inputs of all perturbations are stacked into full batches. The scores depend neither on the size of these nor
    on which images come together (up to float32's rounding in the classifier).

    Args:
        classifier: The classifier.
        images: (B, C, H, W) in [0, 1].
        maps: Unscaled maps (B, h, w). Those with NaN or infinite values become all ones, see `usable_maps`.
        targets: Class of each image, (B,).
        indices: Position of each image in its list, (B,).
        perturbations: How the images are perturbed.
        passes: Rows per pass, precision and timing; default: as many rows as fit, float32.

    Raises:
        InputError: For maps, targets or indices of another shape, or without any perturbation.
    """
    names = tuple(name for perturbation in perturbations for name in perturbation.names)
    if not names:
        raise InputError("expected at least one perturbation, got none")
    check_maps(maps, len(images))
    check_targets(targets, len(images), classifier.spec.num_classes)
    if indices.shape != (len(images),):
        raise InputError(f"expected a position in the list of each of {len(images)} images, got {tuple(indices.shape)}")
    maps, images = usable_maps(maps).maps, images.float()
    passes = passes or PassSettings()
    rows = passes.rows or PassRows(device=images.device)
    stopwatch = passes.stopwatch or Stopwatch(images.device)
    stream = (each for one in perturbations for each in one.inputs(classifier, images, maps, indices))
    logits = []
    with autocast(images.device, "32"):  # an autocast of the caller does not reach the perturbations
        batches = _full_batches(stream, rows)
        while True:
            with stopwatch.timing("perturb"):
                batch = next(batches, None)
            if batch is None:
                break
            with stopwatch.timing("classify"), autocast(images.device, passes.precision):
                logits.append(rows.classify(classifier.module, batch).float())
    outputs = torch.cat(logits)
    asked = targets.repeat(len(names))
    shape = (len(names), len(images))
    confidence = confidences(outputs, asked, classifier.spec.score)
    return Scores(names, confidence.view(shape), (outputs.argmax(1) == asked).view(shape))


def _full_batches(parts: Iterable[Tensor], rows: PassRows) -> Iterator[Tensor]:
    """Cut a stream of tensors into batches of exactly as many rows as a pass takes; the last one may be shorter."""
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= rows.rows:
            stacked = torch.cat(waiting)
            size = rows.rows
            yield stacked[:size]
            waiting = [stacked[size:]]
    rest = torch.cat(waiting)
    if len(rest):
        yield rest
