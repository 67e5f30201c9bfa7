"""Base class of methods of external libraries: one image at a time, in isolation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tame.explainers.base import CheckedExplainer
from tame.explainers.external.isolation import isolated
from tame.utils.checks import InputError


class ExternalExplainer(CheckedExplainer):
    """A method of an external library, which explains images one by one.

    Args:
        classifier: The classifier to explain.
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps of ``targets`` (B,) on ``images`` (B, C, H, W), one image after the other."""
        if not len(images):
            return torch.empty(0, *images.shape[2:], device=images.device)
        return torch.stack([self._explain(image, int(target)) for image, target in zip(images, targets, strict=True)])

    @abstractmethod
    def explain_one(self, inputs: Tensor, target: int) -> Tensor:
        """Return the map (h, w) of one normalised image (1, C, H, W); changes of the network are undone afterwards."""

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Raise errors of the library as `InputError` with the names of the method and the classifier."""
        try:
            yield
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(f"{self.method} cannot explain {self.classifier.spec.name}: {error}") from error

    def _explain(self, image: Tensor, target: int) -> Tensor:
        with isolated(self.classifier.module, image), self.refusals():
            inputs = self.classifier.normalise(
                image.detach().clone().unsqueeze(0)
            )  # an inference tensor cannot enter a graph
            return self.explain_one(inputs, target).detach()
