"""The contract of every explanation method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.locks import network_lock
from tame.classifier.probing.proposal import gradient_cut
from tame.utils.checks import InputError, check_images, check_maps, check_targets


@contextmanager
def naming_cut_gradients(classifier: FrozenClassifier) -> Iterator[None]:
    """Replace errors of torch by one that says why a network has no gradients or layers, where that is their cause.

    Raises:
        InputError: For such a network.
    """
    try:
        yield
    except RuntimeError as error:
        if why := gradient_cut(classifier.spec, classifier.module):
            raise InputError(why) from error
        raise


class CheckedExplainer(ABC):
    """Base class of explainers: checks inputs and maps, so that methods only implement `explain`.

    Every method leaves the classifier as it was, also after an exception: hooks, modes, ``requires_grad`` and
    gradients. The maps of a batch are those of its images explained one by one. Threads may call it at once: of one
    network, one explanation is computed at a time.

    Args:
        classifier: The classifier to explain.
    """

    method: str | None = None
    """Name that `tame.build_explainer` built it by; None for a function or an explainer that was built directly."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """Arguments that `tame.build_explainer` built it with."""

    def __init__(self, classifier: FrozenClassifier) -> None:
        self.classifier = classifier

    @property
    def name(self) -> str:
        """Its name in files: the method that it was built by, otherwise its class."""
        return self.method or type(self).__name__

    def __call__(self, images: Tensor, targets: Tensor | Sequence[int | str] | int | str | None = None) -> Tensor:
        """Explain ``targets`` on ``images``.

        Args:
            images: (B, C, H, W) in [0, 1], floats of any precision.
            targets: Classes, (B,) indices in a tensor, or indices or names in a sequence; one index or name for all
                images; default: the predicted classes.

        Returns:
            Maps (B, h, w), unscaled and without an autograd graph.

        Raises:
            InputError: For images or targets of a wrong shape, type or range.
        """
        spec = self.classifier.spec
        check_images(images, spec.preprocessing.channels)
        images = images.float()
        targets = self._indices(images, targets)
        check_targets(targets, len(images), spec.num_classes)
        with self.alone(), naming_cut_gradients(self.classifier):
            maps = self.explain(images, targets).detach()
        maps = maps.float() if self.classifier.casts else maps
        check_maps(maps, len(images))
        return maps

    def alone(self) -> AbstractContextManager[Any]:
        """Within it, this thread alone explains: other threads wait that run or explain the same network."""
        return network_lock(self.classifier.module)

    def _indices(self, images: Tensor, targets: Tensor | Sequence[int | str] | int | str | None) -> Tensor:
        """Return targets as a tensor; those that are one already are checked later."""
        if targets is None:
            with torch.no_grad():
                return self.classifier.logits(images).argmax(1)
        if isinstance(targets, Tensor):
            whole = targets.ndim and not (targets.is_floating_point() or targets.dtype == torch.bool)
            return targets.long() if whole else targets
        each = [targets] * len(images) if isinstance(targets, int | str) else list(targets)
        spec = self.classifier.spec
        return torch.tensor([spec.resolve_target(one) for one in each], dtype=torch.int64, device=images.device)

    @abstractmethod
    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return unscaled maps (B, h, w) of checked ``images`` and ``targets``."""
