"""Plain and perturbed passes through a classifier, in full batches that fit the memory, and timed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.functional.scores import confidences
from tame.perturbations.base import Perturbation
from tame.utils.checks import InputError, check_maps, check_targets
from tame.utils.devices import rows_per_pass

logger = logging.getLogger("tame")


class PlainScores(NamedTuple):
    """What the classifier says of unmasked images.

    Attributes:
        targets: Model truth, argmax of the logits, (B,) int64.
        confidence: Score p of the model truth, (B,) float32.
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


def plain_scores(classifier: FrozenClassifier, images: Tensor, precision: str = "32") -> PlainScores:
    """Classify images (B, C, H, W) in [0, 1] as they are; for ``precision`` see `perturbed_scores`."""
    with autocast(images.device, precision):
        logits = classifier.logits(images).float()
    targets = logits.argmax(1)
    return PlainScores(targets, confidences(logits, targets, classifier.spec.score), logits)


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


class Scores(NamedTuple):
    """What the classifier says of N perturbed versions of B images.

    Attributes:
        names: Of the perturbed versions.
        confidence: Score p' of the targets, (N, B) float32.
        kept: Whether the target is still the top class, bool (N, B).
    """

    names: tuple[str, ...]
    confidence: Tensor
    kept: Tensor


class PassRows:
    """Rows per pass through the classifier: as many as fit, found by halving whenever memory runs out.

    Args:
        rows: Where to start; 0: 8 on the CPU, 256 on other devices. An interrupted run continues with what it had
            found, so that its numbers stay the same to the last digit.
        device: Device of the classifier.

    Raises:
        InputError: For a negative number.
    """

    def __init__(self, rows: int = 0, device: str | torch.device = "cpu") -> None:
        if rows < 0:
            raise InputError(f"expected rows per pass of 0 (as many as fit) or more, got {rows}")
        self.rows = rows or rows_per_pass(device)

    def classify(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits of normalised inputs (n, C, H, W).

        Raises:
            torch.OutOfMemoryError: If even one row does not fit.
        """
        while True:
            try:
                return torch.cat([module(part) for part in inputs.split(self.rows)])
            except torch.OutOfMemoryError:
                if self.rows == 1:
                    raise
            self.rows = max(1, self.rows // 2)
            logger.info("The device's memory is full: %d images per pass from now on.", self.rows)
            torch.cuda.empty_cache()  # nothing happens where CUDA was not used


class Stopwatch:
    """Adds up the seconds spent in each of several activities.

    Args:
        device: Work on it is waited for, so that it counts where it was started.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, activity: str) -> Iterator[None]:
        """Add the time of the block to ``activity``."""
        started = self._now()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def perturbed_scores(
    classifier: FrozenClassifier,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    indices: Tensor,
    perturbations: Sequence[Perturbation],
    *,
    rows: PassRows | None = None,
    precision: str = "32",
    watch: Stopwatch | None = None,
) -> Scores:
    """Classify every perturbed version of a batch once.

    The inputs of all perturbations are stacked into full batches; the result does not depend on their size, nor on
    which images come together (up to float32's rounding in the classifier).

    Args:
        classifier: The classifier.
        images: (B, C, H, W) in [0, 1].
        maps: Unscaled maps (B, h, w). Those with NaN or infinite values become all ones, see `usable_maps`.
        targets: Class of each image, (B,).
        indices: Position of each image in its list, (B,).
        perturbations: What to do to the images.
        rows: Rows per pass; None: as many as fit.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``, of the passes alone.
        watch: Gets the seconds of ``perturb`` and ``classify``.

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
    rows = rows or PassRows(device=images.device)
    watch = watch or Stopwatch(images.device)
    stream = (each for one in perturbations for each in one.inputs(classifier, images, maps, indices))
    logits = []
    with autocast(images.device, "32"):  # what the caller is in does not reach the perturbations
        batches = _full_batches(stream, rows)
        while True:
            with watch.timing("perturb"):
                batch = next(batches, None)
            if batch is None:
                break
            with watch.timing("classify"), autocast(images.device, precision):
                logits.append(rows.classify(classifier.module, batch).float())
    outputs = torch.cat(logits)
    asked = targets.repeat(len(names))
    shape = (len(names), len(images))
    confidence = confidences(outputs, asked, classifier.spec.score)
    return Scores(names, confidence.view(shape), (outputs.argmax(1) == asked).view(shape))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a precision: ``16-mixed``, ``bf16-mixed``, or ``32``, where nothing is cast."""
    half = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")


def _full_batches(parts: Iterable[Tensor], rows: PassRows) -> Iterator[Tensor]:
    """Cut a stream of tensors into batches of exactly as many rows as a pass takes, the last one shorter."""
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
