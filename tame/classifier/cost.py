"""Measure the cost of explanations: forward and backward passes of the classifier, and floating point operations."""

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
from tame.classifier.locks import network_lock
from tame.utils.threads import PROCESS, in_this_thread


@dataclass
class Passes:
    """Number of images that passed through a classifier.

    Attributes:
        forward: Forward passes that reached the logits, from the images or from an inner layer.
        backward: Backward passes that started at the logits.
    """

    forward: int = 0
    backward: int = 0


class PassCounter:
    """Counts the forward and backward passes of a classifier, by any caller of the thread and in any traced graph.

    Every image that reaches the classifier's last layer counts once, also if its pass starts at an inner layer.

    Args:
        classifier: The classifier; it is run once to find its last layer.

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
        seen = in_this_thread(remember)
        handles = [leaf.register_forward_hook(seen) for leaf in leaves if any(True for _ in leaf.parameters())]
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

        handle = self._last.register_forward_hook(in_this_thread(count))
        try:
            yield passes
        finally:
            handle.remove()


def relative_cost(classifier: FrozenClassifier, images: Tensor, explain: Callable[[], object]) -> float | None:
    """Return the cost of an explanation, relative to one forward pass of the classifier.

    Cost is the number of floating point operations of matrix products, convolutions and attention, forward and
    backward, inside and outside of the classifier. It does not depend on the device, precision or grad mode.

    Args:
        classifier: The classifier.
        images: (B, C, H, W) in [0, 1].
        explain: Function that explains these images.

    Returns:
        1 for one forward pass of ``images``; None for a classifier without such operations.

    Example:
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier, images = FrozenClassifier(spec, net, layers=["1"]), torch.rand(5, 3, 8, 8)
        >>> relative_cost(classifier, images, lambda: [classifier(images) for _ in range(3)])
        3.0
    """
    with network_lock(classifier.module), PROCESS:
        with torch.no_grad():
            forward = _count_operations(lambda: classifier.logits(images))
        return _count_operations(explain) / forward if forward else None


def _count_operations(call: Callable[[], object]) -> int:
    """Return the floating point operations of ``call``, with fused kernels off since not all of them are counted.

    Hold `PROCESS`: these settings belong to the whole process.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path of `nn.MultiheadAttention` is not counted
    try:
        with sdpa_kernel(SDPBackend.MATH), _FlopCounter() as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """Counts the floating point operations of the current thread by torch's own formulas.

    Torch's `FlopCounterMode` counts the same, but registers global module hooks, which affect other threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # a composite such as `linear` in inference mode: count the operations it consists of
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.total += formula(*args, **kwargs, out_val=result)
        return result
