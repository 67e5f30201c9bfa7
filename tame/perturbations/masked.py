"""Masked images: only the most relevant pixels remain, for Average Drop and Increase in Confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.functional.masking import apply_mask, check_keep, keep_top, scale_and_upsample
from tame.perturbations.base import Perturbation
from tame.perturbations.names import masked_name
from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError


class MaskedInputs(Perturbation):
    """Each map is scaled, upsampled to the image, thresholded and multiplied onto the image.

    Args:
        scalings: Scalings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.

    Raises:
        InputError: If there are none, one occurs twice or is unknown, or a keep is not in (0, 1].

    Source: T-TAME, Section IV, Eq. 13 and 14.
    """

    def __init__(
        self, scalings: Sequence[MapScaling], keeps: Sequence[float], masking: MaskingKind | None = None
    ) -> None:
        for keep in keeps:
            check_keep(keep)
        for scaling in scalings:
            if scaling not in get_args(MapScaling):
                raise InputError(f"expected map scalings {' or '.join(get_args(MapScaling))}, got {scaling!r}")
        if masking is not None and masking not in get_args(MaskingKind):
            raise InputError(f"expected the masking {' or '.join(get_args(MaskingKind))}, got {masking!r}")
        self.scalings, self.keeps, self.masking = tuple(scalings), tuple(keeps), masking
        self.names = tuple(masked_name(scaling, keep) for scaling in scalings for keep in keeps)
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError(f"expected different scalings and keeps, got {list(scalings)} and {list(keeps)}")

    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        """Yield the masked images, keeps innermost; nothing is random."""
        size = (images.shape[-2], images.shape[-1])
        for scaling in self.scalings:
            scaled = scale_and_upsample(maps, size, scaling)
            for keep in self.keeps:
                masks = keep_top(scaled, keep)
                yield apply_mask(images, masks, classifier.normalise, self.masking or classifier.spec.masking)
