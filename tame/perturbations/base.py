"""The contract of every perturbation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from tame.classifier import FrozenClassifier


class Perturbation(ABC):
    """A family of perturbed versions of an image, computed from the image and its map.

    Perturbations with the same settings are equal: several metrics can ask for one, and it is computed once.

    Attributes:
        names: One per perturbed version, in the order of `inputs`; see `tame.perturbations.names`.
        reads_kept: Whether a metric uses if the predicted class stays the top class, beside its confidence.
    """

    names: tuple[str, ...]
    reads_kept = False

    @abstractmethod
    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        """Yield one batch per name, ready for the classifier's module: normalised, (B, C, H, W).

        Args:
            classifier: Normalises the images.
            images: (B, C, H, W) float32 in [0, 1].
            maps: Unscaled, finite maps (B, h, w).
            indices: Position of each image in the list, (B,); random numbers are seeded by it.
        """

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), self.names))
