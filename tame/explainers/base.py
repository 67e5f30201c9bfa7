"""The contract of every explanation method, and the registry of their factories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.checks import check_images, check_maps, check_targets
from tame.options import MethodOptions
from tame.registry import Registry
from tame.types import Explainer

Factory = Callable[[FrozenClassifier, MethodOptions], Explainer]
"""Builds an explainer for one classifier; raises `InputError` when it cannot serve that classifier."""

EXPLAINERS = Registry[Factory]("method")


def build_explainer(classifier: FrozenClassifier, options: MethodOptions) -> Explainer:
    """Build the explanation method ``options.method``, a name or ``package.module:function``, for ``classifier``.

    Raises:
        InputError: For an unknown method, or one that cannot explain this classifier.
    """
    if ":" in options.method:
        from tame.explainers.given import GivenExplainer, load_function

        return GivenExplainer(classifier, load_function(options.method, classifier))
    return EXPLAINERS.get(options.method)(classifier, options)


class CheckedExplainer(ABC):
    """An explainer whose requests and answers are checked, so that methods only implement `explain`.

    Every method leaves no trace: hooks, modes, ``requires_grad`` and gradients are as before, also after an
    exception. Explaining a batch gives the maps of its images explained one by one.

    Args:
        classifier: The classifier to explain.
    """

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
