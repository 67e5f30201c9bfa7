"""Propose feature layers for any classifier by watching it work once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from tame.backbones.spec import BackboneSpec
from tame.checks import InputError

_Seen = list[tuple[str, nn.Module, Tensor]]  # in the order of execution


def propose_layers(spec: BackboneSpec, module: nn.Module, count: int = 3) -> tuple[str, ...]:
    """Propose up to ``count`` feature layers, earliest first.

    Feature maps: the last of the outermost modules at each of the deepest ``count`` resolutions. Tokens: the
    first norm of the last ``count`` blocks, the place before attention. Only layers whose positions still reach
    the logits are taken: after the last block of a transformer with a class token, patches no longer do.

    Args:
        spec: Describes the input and, for transformers, the token layout.
        module: The classifier, in eval mode.
        count: How many layers.

    Raises:
        InputError: If no layer qualifies.
    """
    seen: _Seen = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(part: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                seen.append((name, part, output))

        return hook

    shape = (1, *spec.preprocessing.shape)
    generator = torch.Generator().manual_seed(0)  # the proposal never depends on the caller's seed, nor moves it
    images = torch.randn(shape, generator=generator)  # as if normalised
    handles = [part.register_forward_hook(watch(name)) for name, part in module.named_modules() if name]
    zero_heads = [part for part in module.modules() if isinstance(part, nn.Linear) and not part.weight.any()]
    for head in zero_heads:  # an untrained head may be all zero and hide what reaches the logits
        nn.init.normal_(head.weight, generator=generator)
    try:
        with torch.enable_grad():
            score = module(images.requires_grad_()).amax()
        candidates = _deepest_maps(seen) if spec.tokens is None else _first_norms(seen)
        deepest_first = (name for name, output in reversed(candidates) if _reaches(score, output))
        layers = tuple(islice(deepest_first, count))[::-1]
    finally:
        for handle in handles:
            handle.remove()
        for head in zero_heads:
            nn.init.zeros_(head.weight)
    if not layers:
        raise InputError(f"no feature layer found in {spec.name}; name some with --layers")
    return layers


def _deepest_maps(seen: _Seen) -> list[tuple[str, Tensor]]:
    """Return the last of the outermost modules at each resolution, largest resolution first."""
    best: dict[tuple[int, int], tuple[str, Tensor]] = {}
    for name, part, output in seen:
        if output.ndim != 4 or isinstance(part, nn.AdaptiveAvgPool2d | nn.ZeroPad2d):
            continue
        size = (output.shape[2], output.shape[3])
        if size[0] != size[1] or size[0] == 1:  # the image is square: a map that is not has its channels last
            continue
        if size not in best or name.count(".") <= best[size][0].count("."):
            best[size] = (name, output)
    return [best[size] for size in sorted(best, reverse=True)]


def _first_norms(seen: _Seen) -> list[tuple[str, Tensor]]:
    """Return the first norm over tokens of every block, in order."""
    first: dict[str, tuple[str, Tensor]] = {}
    for name, part, output in seen:
        if isinstance(part, nn.LayerNorm) and output.ndim == 3:
            first.setdefault(name.rpartition(".")[0], (name, output))
    return list(first.values())


def _reaches(score: Tensor, output: Tensor) -> bool:
    """Whether most positions of ``output`` (channels last for tokens, second for maps) have a gradient."""
    (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
    if gradient is None:
        return False
    positions = gradient.abs().sum(-1 if output.ndim == 3 else 1)
    return bool((positions > 0).float().mean() > 0.5)
