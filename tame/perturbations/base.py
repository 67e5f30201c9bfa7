"""What every perturbation promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from tame.classifier import FrozenClassifier


class Perturbation(ABC):
    """A family of perturbed versions of an image, made from the image and its map.

    Attributes:
        names: One per perturbed version, in the order of `inputs`; see `tame.perturbations.names`.
        reads_kept: Whether a metric reads if the model truth survived, beside its confidence.
    """

    names: tuple[str, ...]
    reads_kept = False

    @abstractmethod
    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        """Yield one batch per name, ready for the classifier's module: normalised, (B, C, H, W).

        Args:
            classifier: Normalises.
            images: (B, C, H, W) float32 in [0, 1].
            maps: Unscaled, finite maps (B, h, w).
            indices: Position of each image in the list, (B,): what is random depends on it.
        """
