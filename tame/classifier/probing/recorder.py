"""Record one forward pass of a classifier: the input and output of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier.calls import call_names
from tame.classifier.layout import channels_first, has_aspect
from tame.classifier.outputs import Part, float_type
from tame.classifier.shared import sharing_copy
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.threads import in_this_thread


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        name: Name of the layer: the module's, with the number of the call for modules that are called several times.
        path: Name of the module, as in ``named_modules()``.
        module: The module.
        input: Its first input that is a tensor; None if none is.
        output: Its return value.
    """

    name: str
    path: str
    module: nn.Module
    input: Tensor | None
    output: Any


def record_calls(module: nn.Module, images: Tensor, name: str) -> tuple[list[Call], Any]:
    """Run ``module`` on normalised images and record the calls of its submodules.

    The modules that parametrise a weight (`torch.nn.utils.parametrize`: weight and spectral norm) are no layers.

    Args:
        module: A classifier, in eval mode.
        images: (B, C, H, W), normalised.
        name: Name of the classifier, for error messages.

    Returns:
        The calls in the order in which they end, and the module's return value.

    Raises:
        InputError: If the classifier rejects the images.
    """
    calls: list[Call] = []

    def hook_of(part: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(called: nn.Module, arguments: tuple[object, ...], output: object) -> None:
            first = next((value for value in arguments if isinstance(value, Tensor)), None)
            calls.append(Call(part, part, called, first, output))

        return hook

    parts = [
        (path, part) for path, part in module.named_modules() if path and "parametrizations" not in path.split(".")
    ]
    hooked = [(path, part) for path, part in parts if not isinstance(part, torch.jit.ScriptModule)]  # it takes no hooks
    handles = [part.register_forward_hook(in_this_thread(hook_of(path))) for path, part in hooked]
    try:
        result = module(images)
    except Exception as error:  # a network may reject an input with any error
        raise InputError(
            f"expected {name} to classify images of shape {tuple(images.shape)}, got {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    names = call_names([call.path for call in calls])
    return [call._replace(name=name) for call, name in zip(calls, names, strict=True)], result


def random_images(module: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Return a fixed standard normal image (1, C, H, W), with the device and dtype of the module's parameters."""
    images = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    return images.to(next(module.parameters(), images).device, float_type(module))


class RecordedPass(NamedTuple):
    """A forward pass: the calls of submodules in the order in which they end, the largest logit, and the image."""

    calls: list[Call]
    score: Tensor
    images: Tensor


@contextmanager
def recorded_pass(spec: BackboneSpec, module: nn.Module) -> Iterator[RecordedPass]:
    """Run a classifier on a random image with gradients of the image only: values that need no gradient ignore it.

    A copy is run, so that other threads, which may train the network, meet no change. In it weights that are all zero
    (last layers and norms of residual branches are often initialised so) are random ones, since they would block the
    gradient of the logits.
    """
    generator = torch.Generator().manual_seed(0)  # the global random state is neither used nor changed
    copied = sharing_copy(module)
    for weight in {getattr(part, "weight", None): None for part in copied.modules()}:
        if isinstance(weight, nn.Parameter) and not weight.any():
            weight.data = torch.randn(weight.shape, generator=generator).to(weight)
    with torch.inference_mode(False), torch.enable_grad():
        images = random_images(copied, spec.preprocessing.shape).requires_grad_()
        calls, result = record_calls(copied, images, spec.name)
        logits = result if isinstance(result, Tensor) else (spec.output or Part("logits"))(result)
        yield RecordedPass(calls, logits.amax(), images)


def layers_hidden(module: nn.Module, recorded: RecordedPass) -> str:
    """Return why a network has no layers or gradients, from a recorded pass; empty if it has."""
    parts = list(module.modules())
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        return "is a TorchScript network, whose layers cannot be read"
    if any("quantized" in type(part).__module__ for part in parts):
        return "is quantised: its operations have no gradients"
    if any(isinstance(call.output, Tensor) and call.output.is_inference() for call in recorded.calls):
        return "runs under torch.inference_mode: its logits have no gradients"
    if not recorded.score.requires_grad:
        return "detaches its logits or runs under torch.no_grad: they have no gradients"
    return ""


def positions(value: Any, spec: BackboneSpec) -> tuple[int, ...] | None:
    """Return (h, w) of a feature map, (n,) of a token sequence, and None for other values."""
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 4:
        height, width = channels_first(value, spec.preprocessing.size).shape[2:]
        return (height, width) if has_aspect(height, width, spec.preprocessing.size) else None
    return (value.shape[1],) if value.ndim == 3 else None


def reaches_score(score: Tensor, outputs: list[Tensor], spec: BackboneSpec) -> list[bool]:
    """Whether each output, maps (B, C, h, w) or tokens (B, n, D), has a gradient of the score at most positions."""
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
