"""One pass through a classifier, watched: what every module was given and put out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier.layout import channels_first, has_aspect
from tame.classifier.outputs import Part
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError


class Call(NamedTuple):
    """One call of a module: its name, the module, the first tensor it was given, and its output."""

    name: str
    module: nn.Module
    given: Tensor | None
    output: Any


def watch(module: nn.Module, images: Tensor, name: str) -> tuple[list[Call], Any]:
    """Run ``module`` on normalised images; return the calls of its parts as they end, and what it returns.

    Args:
        module: A classifier, in eval mode.
        images: (B, C, H, W).
        name: What the classifier is called in messages.

    Raises:
        InputError: If the classifier refuses the images.
    """
    calls: list[Call] = []

    def hook_of(part: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(called: nn.Module, arguments: tuple[object, ...], output: object) -> None:
            given = next((value for value in arguments if isinstance(value, Tensor)), None)
            calls.append(Call(part, called, given, output))

        return hook

    handles = [part.register_forward_hook(hook_of(path)) for path, part in module.named_modules() if path]
    try:
        return calls, module(images)
    except Exception as error:  # a network can refuse an input in any way
        raise InputError(
            f"expected {name} to classify images of shape {tuple(images.shape)}, got {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def random_images(module: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Return an image (1, C, H, W) as if normalised, always the same, where the module's parameters are."""
    images = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    parameter = next(module.parameters(), images)
    return images.to(parameter.device, parameter.dtype)


@contextmanager
def watched(spec: BackboneSpec, module: nn.Module) -> Iterator[tuple[list[Call], Tensor]]:
    """Run a classifier on a random image with a graph; yield the calls of its parts and its largest logit.

    Inside the block layers whose weights are all zero, as last layers and norms of residuals often start, have random
    ones: they would hide what reaches the logits.
    """
    generator = torch.Generator().manual_seed(0)  # never the caller's: neither used nor moved
    weights = (getattr(part, "weight", None) for part in module.modules())
    zero = [weight for weight in weights if isinstance(weight, nn.Parameter) and not weight.any()]
    with torch.inference_mode(False), torch.enable_grad():
        for weight in zero:
            weight.data.copy_(torch.randn(weight.shape, generator=generator))
        try:
            calls, result = watch(module, random_images(module, spec.preprocessing.shape).requires_grad_(), spec.name)
            logits = result if isinstance(result, Tensor) else (spec.output or Part("logits"))(result)
            yield calls, logits.amax()
        finally:
            for weight in zero:
                weight.data.zero_()


def positions(value: Any, spec: BackboneSpec) -> tuple[int, ...] | None:
    """Return (h, w) of a feature map, (n,) of a sequence, None for anything else that is given or put out."""
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 4:
        height, width = channels_first(value, spec.preprocessing.size).shape[2:]
        return (height, width) if has_aspect(height, width, spec.preprocessing.size) else None
    return (value.shape[1],) if value.ndim == 3 else None


def reached(score: Tensor, outputs: list[Tensor], spec: BackboneSpec) -> list[bool]:
    """Whether the score has a gradient at most positions of each output: a map (B, C, h, w) or tokens (B, n, D)."""
    with torch.enable_grad():
        gradients = torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True) if outputs else ()
    found = []
    for gradient in gradients:
        if gradient is None:
            found.append(False)
            continue
        channels = 2 if gradient.ndim == 3 else 1
        values = channels_first(gradient, spec.preprocessing.size) if gradient.ndim == 4 else gradient
        found.append(bool((values.abs().sum(channels) > 0).float().mean() > 0.5))
    return found
