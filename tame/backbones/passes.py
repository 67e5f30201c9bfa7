"""Count what an explanation costs: images that reach the logits, and gradients that leave them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tame.backbones.frozen import FrozenClassifier


@dataclass
class Passes:
    """Images that went through the classifier, whole or from a layer on (``forward``), and back (``backward``)."""

    forward: int = 0
    backward: int = 0


class PassCounter:
    """Counts the passes of a classifier, whoever makes them and through whichever of its traced graphs.

    Every image that reaches the classifier's last layer counts once, also in a pass that starts at an inner layer.

    Args:
        classifier: The classifier; it is run once, to find its last layer.

    Example:
        >>> from tame.backbones import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = FrozenClassifier(spec, net, layers=["1"])
        >>> counter = PassCounter(classifier)
        >>> with counter.counting() as passes:
        ...     _ = classifier(torch.rand(5, 3, 8, 8))
        >>> passes
        Passes(forward=5, backward=0)
    """

    def __init__(self, classifier: FrozenClassifier) -> None:
        self._last: nn.Module = classifier.module

        def remember(module: nn.Module, _args: object, _output: object) -> None:
            self._last = module

        leaves = [part for part in classifier.module.modules() if not any(True for _ in part.children())]
        handles = [leaf.register_forward_hook(remember) for leaf in leaves if any(True for _ in leaf.parameters())]
        shape = (1, *classifier.spec.preprocessing.shape)
        try:
            with torch.no_grad():
                classifier.logits(torch.zeros(shape, device=classifier.mean.device))
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def counting(self) -> Iterator[Passes]:
        """Count the passes inside the block."""
        passes = Passes()

        def count(_module: nn.Module, _args: object, output: Tensor) -> None:
            passes.forward += len(output)
            if output.requires_grad:
                output.register_hook(count_back)

        def count_back(gradient: Tensor) -> None:
            passes.backward += len(gradient)

        handle = self._last.register_forward_hook(count)
        try:
            yield passes
        finally:
            handle.remove()
