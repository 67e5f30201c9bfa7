"""Count what an explanation costs: images that reach the logits, gradients that leave them, and all work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tame.classifier.frozen import FrozenClassifier


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
        >>> from tame.classifier import BackboneSpec, Preprocessing
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


def work_of(classifier: FrozenClassifier, images: Tensor, explain: Callable[[], object]) -> float | None:
    """Return the work of ``explain`` in units of one plain forward pass of ``images``.

    Work is what matrix products, convolutions and attention multiply, forward and backward, inside the classifier and
    outside of it. It does not depend on the device and its kernels, on the precision or on the grad mode.

    Args:
        classifier: The classifier.
        images: (B, C, H, W) in [0, 1].
        explain: Explains them.

    Returns:
        1 for a plain pass; None for a classifier that multiplies nothing.

    Example:
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier, images = FrozenClassifier(spec, net, layers=["1"]), torch.rand(5, 3, 8, 8)
        >>> work_of(classifier, images, lambda: [classifier(images) for _ in range(3)])
        3.0
    """
    with torch.no_grad():
        plain = _multiplied(lambda: classifier.logits(images))
    return _multiplied(explain) / plain if plain else None


def _multiplied(call: Callable[[], object]) -> int:
    """Return the floating point operations of ``call``, of parts that can be counted everywhere."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # that way of `nn.MultiheadAttention` is not counted
    try:
        with sdpa_kernel(SDPBackend.MATH), _Counted() as counted:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counted.total


class _Counted(TorchDispatchMode):
    """Counts the floating point operations of its thread by torch's own formulas.

    Torch's `FlopCounterMode` does too, but hangs hooks on the modules of all threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # such as `linear` in inference mode, which is made of what can be counted
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.total += formula(*args, **kwargs, out_val=result)
        return result
