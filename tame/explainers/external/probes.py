"""A network whose target layers can be hooked by any library, whatever their layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.classifier.calls import split_call
from tame.classifier.gradients import as_map
from tame.classifier.layout import channels_first
from tame.utils.threads import in_this_thread


class Observed(NamedTuple):
    """How a layer is called.

    Attributes:
        calls: Calls per forward pass.
        last: Whether its output has the channels last, see `channels_last`.
    """

    calls: int
    last: bool


class ProbedNetwork(nn.Module):
    """A classifier's network with a probe after each target layer: an identity that a library can hook or replace.

    A probe sees the layer's output, at a module's last call or the call that is named, as a map (B, C, h, w),
    whether the layer returns maps, channels last, or tokens; prefix tokens bypass it. What follows works on a copy,
    so that in-place operations do not reach what the library stored. The logits do not change.

    Call it inside `isolated`, which removes the hooks on the layers.

    Args:
        classifier: The classifier.
        layers: Target layers, with what `observe` saw of each.
        size: Height and width of the images.
        raw: Probes see the layer's output as it is.
    """

    def __init__(
        self, classifier: FrozenClassifier, layers: Mapping[str, Observed], size: tuple[int, ...], raw: bool = False
    ) -> None:
        super().__init__()
        self.network = classifier.module
        self.classifier, self.size, self.raw = [classifier], size, raw  # a list: the classifier is no submodule
        self.names = [f"probe{index}" for index, _ in enumerate(layers)]
        for name, (layer, seen) in zip(self.names, layers.items(), strict=True):
            self.add_module(name, nn.Identity())
            path, number = split_call(layer)
            hook = self._hook(name, seen.calls, number or seen.calls)
            self.network.get_submodule(path).register_forward_hook(in_this_thread(hook))

    @property
    def probes(self) -> list[nn.Module]:
        """The probes, in the order of the layers."""
        return [self.get_submodule(name) for name in self.names]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (B, K) of normalised images (B, C, H, W); with a graph where gradients are enabled."""
        if torch.is_grad_enabled() and not inputs.requires_grad:
            inputs = inputs.detach().requires_grad_()  # no parameter requires a gradient
        return self.network(inputs.clone())

    def _hook(self, name: str, count: int, number: int) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        called = 0

        def through_probe(_module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
            nonlocal called
            called += 1
            if (called - number) % count:
                return None
            if self.raw:
                return getattr(self, name)(output).clone()
            maps = as_map(self.classifier[0], output, self.size).clone()  # not a view: libraries detach it in place
            return self._back(getattr(self, name)(maps), output)

        return through_probe

    def _back(self, maps: Tensor, output: Tensor) -> Tensor:
        """Return maps (B, C, h, w) in the layout of a layer's output, as a copy; prefix tokens are the output's."""
        if output.ndim == 3:
            prefix = output[:, : output.shape[1] - maps.shape[2] * maps.shape[3]]
            return torch.cat([prefix, maps.flatten(2).mT], 1)
        return (maps.permute(0, 2, 3, 1) if channels_last(output, self.size) else maps).clone()


def channels_last(output: Tensor, size: tuple[int, ...]) -> bool:
    """Whether a layer's output has its channels last: tokens (B, n, C) or a map (B, h, w, C)."""
    return output.ndim == 3 or (output.ndim == 4 and channels_first(output, size) is not output)


def observe(classifier: FrozenClassifier, layers: Sequence[str]) -> dict[str, Observed]:
    """Run the classifier once, on a random image, and return what was seen of each layer."""
    seen: dict[str, Observed] = {}
    if not layers:
        return seen

    def hook_of(layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
            calls = seen[layer].calls if layer in seen else 0
            seen[layer] = Observed(calls + 1, channels_last(output, shape[2:]))

        return hook

    shape = (1, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean)
    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            part = classifier.module.get_submodule(split_call(layer)[0])
            handle = part.register_forward_hook(in_this_thread(hook_of(layer)))
            stack.callback(handle.remove)
        classifier.logits(images)
    return seen
