"""The contract of every explanation method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.utils.checks import check_images, check_maps, check_targets


class CheckedExplainer(ABC):
    """An explainer whose inputs and maps are checked, so that methods only implement `explain`.

    Every method leaves no trace: hooks, modes, ``requires_grad`` and gradients are as before, also after an
    exception. Explaining a batch gives the maps of its images explained one by one.

    Args:
        classifier: The classifier to explain.
    """

    method: str | None = None
    """Name that it was built by, see `tame.build_explainer`."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """Arguments that it was built with."""

    def __init__(self, classifier: FrozenClassifier) -> None:
        self.classifier = classifier

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Explain ``targets`` (B,) on ``images`` (B, C, H, W) in [0, 1].

        Returns:
            Maps (B, h, w), unscaled, without a graph.

        Raises:
            InputError: For images or targets of another shape, type or range.
        """
        spec = self.classifier.spec
        check_images(images, spec.preprocessing.channels)
        check_targets(targets, len(images), spec.num_classes)
        maps = self.explain(images, targets).detach()
        check_maps(maps, len(images))
        return maps

    @abstractmethod
    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return unscaled maps (B, h, w) of checked ``images`` and ``targets``."""
