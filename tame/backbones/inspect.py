"""Propose feature layers for any classifier by watching it work once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tame.backbones.spec import BackboneSpec
from tame.checks import InputError


def propose_layers(spec: BackboneSpec, module: nn.Module, count: int = 3) -> tuple[str, ...]:
    """Propose up to ``count`` feature layers, earliest first.

    Feature maps: the last of the outermost modules at each of the deepest ``count`` resolutions. Tokens: the first norm of the
    last ``count`` blocks, the place before attention. Only layers whose every position still reaches the
    logits are taken: after the last block of a transformer with a class token, patches no longer do.

    Args:
        spec: Describes the input and, for transformers, the token layout.
        module: The classifier, in eval mode.
        count: How many layers.

    Raises:
        InputError: If no layer qualifies.
    """
    seen: list[tuple[str, nn.Module, Tensor]] = []  # in the order of execution, one entry per module's last call

    def watch(name: str) -> object:
        def hook(watched: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                seen.append((name, watched, output))

        return hook

    preprocessing = spec.preprocessing
    images = torch.rand(
        1, preprocessing.channels, preprocessing.crop, preprocessing.crop, generator=torch.Generator().manual_seed(0)
    )
    images = (images - torch.tensor(preprocessing.mean).view(1, -1, 1, 1)) / torch.tensor(preprocessing.std).view(
        1, -1, 1, 1
    )
    modules = [(name, part) for name, part in module.named_modules() if name]
    handles = [part.register_forward_hook(watch(name)) for name, part in modules]  # type: ignore[arg-type]
    try:
        with torch.enable_grad():
            logits = module(images.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    candidates = _token_norms(seen) if spec.tokens is not None else _deepest_maps(seen)
    (alive,) = torch.autograd.grad(logits.sum(), images, retain_graph=True)
    if alive.any():  # else the head is untrained and all zero: nothing reaches the logits yet
        candidates = [(name, output) for name, output in candidates if _reaches(logits, output)]
    reaching = [name for name, _ in candidates]
    if not reaching:
        raise InputError(f"no feature layer found in {spec.name}; name some with --layers")
    return tuple(reaching[-count:])


def _deepest_maps(seen: list[tuple[str, nn.Module, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return the last of the outermost modules at each resolution, largest resolution first."""
    best: dict[tuple[int, int], tuple[str, Tensor]] = {}
    for name, part, output in seen:
        if output.ndim == 4 and min(output.shape[2:]) > 1 and not isinstance(part, nn.AdaptiveAvgPool2d):
            size = (output.shape[2], output.shape[3])
            if size not in best or name.count(".") <= best[size][0].count("."):
                best[size] = (name, output)
    return [best[size] for size in sorted(best, reverse=True)]


def _token_norms(seen: list[tuple[str, nn.Module, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return the first norm of every block, in order: norms over tokens, one per parent."""
    first: dict[str, tuple[str, Tensor]] = {}
    for name, part, output in seen:
        if isinstance(part, nn.LayerNorm) and output.ndim == 3:
            first.setdefault(name.rpartition(".")[0], (name, output))
    return list(first.values())


def _reaches(logits: Tensor, output: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(logits.sum(), output, retain_graph=True, allow_unused=True)
    if gradient is None:
        return False
    positions = gradient.abs().sum(-1 if output.ndim == 3 else 1).flatten()
    return bool((positions > 0).float().mean() > 0.5)
