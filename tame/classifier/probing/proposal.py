"""Propose feature layers and find the layout of tokens, for any classifier, by watching it work once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier.probing.recorder import Call, positions, random_images, reached, watch, watched
from tame.classifier.spec import BackboneSpec, TokenLayout
from tame.utils.checks import InputError

MAX_PREFIX = 16
"""Tokens before the patches that are looked for: a class token, a distillation token, registers."""


class Candidate(NamedTuple):
    """A layer that can be tapped, and its output."""

    name: str
    output: Tensor


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
        InputError: If no layer qualifies, or most of the network works on tokens whose layout is not known.
    """
    with watched(spec, module) as (calls, score):
        return propose_from(module, calls, score, spec, count)


def propose_from(
    module: nn.Module, calls: list[Call], score: Tensor, spec: BackboneSpec, count: int = 3
) -> tuple[str, ...]:
    """Propose layers as `propose_layers` does, from a pass that was watched."""
    calls = [call for call in calls if isinstance(call.output, Tensor) and call.output.requires_grad]
    candidates = _deepest_maps(calls, spec) if spec.tokens is None else _first_norms(calls, module, spec.tokens)
    hits = reached(score, [candidate.output for candidate in candidates], spec)
    layers = [candidate.name for candidate, hit in zip(candidates, hits, strict=True) if hit][-count:]
    if spec.tokens is None:
        _check_mostly_maps(calls, layers, spec)
    if not layers:
        raise InputError(f"no feature layer found in {spec.name}; name some with --layers")
    return tuple(layers)


def find_tokens(module: nn.Module, shape: tuple[int, int, int]) -> TokenLayout | None:
    """Find how the token sequences of a network become maps; None for one that works on feature maps.

    The last convolution before the first sequence embeds the patches: its output (h, w) is the grid, its h * w = n.
    What sequences (1, n', D) have more than that, 0 to 16 tokens, is the prefix. It counts if more than half of what
    modules put out from there on, maps and sequences, has this one length n'.

    Args:
        module: A classifier, in eval mode.
        shape: (C, H, W) of its input.

    Raises:
        InputError: If the network refuses such an input.
    """
    with torch.no_grad():
        calls, _ = watch(module, random_images(module, shape), type(module).__name__)
    calls = [call for call in calls if isinstance(call.output, Tensor) and call.output.ndim in (3, 4)]
    starts = (index for index, call in enumerate(calls) if call.output.ndim == 3 and call.output.shape[1] > 1)
    start = next(starts, 0)
    grids = [call.output.shape[2:] for call in calls[:start] if isinstance(call.module, nn.Conv2d)]
    if not grids:
        return None
    height, width = grids[-1]
    patches = height * width
    behind = [call.output.shape for call in calls[start:] if call.output.shape[1:-1].numel() > 1]
    lengths = Counter(shape[1] for shape in behind if len(shape) == 3 and shape[0] == 1)
    fitting = {length: lengths[length] for length in lengths if 0 <= length - patches <= MAX_PREFIX}
    length = max(fitting, key=fitting.__getitem__, default=0)
    if 2 * fitting.get(length, 0) <= len(behind):
        return None
    return TokenLayout(prefix=length - patches, grid=(height, width))


def _deepest_maps(calls: Iterable[Call], spec: BackboneSpec) -> list[Candidate]:
    """Return the last of the outermost modules at each resolution, largest resolution first."""
    calls = list(calls)
    # inside a block that leaves the resolution as it is, what has another one (attention, windows) is no stage
    blocks = {
        call.name: shape
        for call in calls
        if (shape := positions(call.output, spec)) and shape == positions(call.given, spec)
    }
    called = {call.name for call in calls}
    best: dict[tuple[int, ...], tuple[int, Candidate]] = {}  # and how many called modules are around it
    for name, part, _given, output in calls:
        shape = positions(output, spec)
        if shape is None or len(shape) != 2 or max(shape) == 1 or isinstance(part, nn.AdaptiveAvgPool2d | nn.ZeroPad2d):
            continue
        if any(blocks.get(around, shape) != shape for around in _around(name)):
            continue
        depth = len(called.intersection(_around(name)))
        if shape not in best or depth <= best[shape][0]:
            best[shape] = depth, Candidate(name, output)
    return [best[shape][1] for shape in sorted(best, key=lambda shape: shape[0] * shape[1], reverse=True)]


def _first_norms(calls: Iterable[Call], module: nn.Module, tokens: TokenLayout) -> list[Candidate]:
    """Return the first norm over all tokens of every block, in order.

    A norm gives back the shape it was given, and has no more parameters of a kind than channels. Blocks are the
    entries of the outermost lists of modules in which several have such norms; without lists, what norms are in.
    """
    length = tokens.prefix + tokens.grid[0] * tokens.grid[1]
    norms = [
        Candidate(call.name, call.output)
        for call in calls
        if call.output.ndim == 3 and call.output.shape[1] == length and _is_norm(call)
    ]
    lists = [path for path, part in module.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    members: dict[str, set[str]] = {path: set() for path in lists}  # entries of lists with norms in them
    for name, _ in norms:
        for around in _around(name):
            members.get(around.rpartition(".")[0], set()).add(around)
    inside, outside = dict[str, Candidate](), dict[str, Candidate]()
    for norm in norms:
        entries = (around for around in _around(norm.name) if len(members.get(around.rpartition(".")[0], ())) > 1)
        if block := next(entries, ""):
            inside.setdefault(block, norm)
        else:
            outside.setdefault(norm.name.rpartition(".")[0], norm)
    return list((inside or outside).values())


def _is_norm(call: Call) -> bool:
    """Whether a module without parts gave back the shape it was given, normalised or scaled per channel."""
    if any(True for _ in call.module.children()) or call.given is None or call.given.shape != call.output.shape:
        return False
    sizes = [parameter.numel() for parameter in call.module.parameters()]
    return isinstance(call.module, nn.LayerNorm) or (bool(sizes) and max(sizes) <= call.output.shape[-1])


def _check_mostly_maps(calls: list[Call], layers: list[str], spec: BackboneSpec) -> None:
    """Check that the network does not go on with sequences behind its last map for longer than it took to there."""
    names = [call.name for call in calls]
    last = max((index for index, name in enumerate(names) if name in layers), default=-1)
    shapes = [positions(call.output, spec) or () for call in calls]
    maps = sum(len(shape) == 2 for shape in shapes[: last + 1])
    if sum(len(shape) == 1 and shape[0] > 1 for shape in shapes[last + 1 :]) > maps:
        raise InputError(
            f"most of {spec.name} works on sequences of tokens, and their grid is not known: give the spec a layout "
            "of its tokens, or name layers that give feature maps with --layers"
        )


def _around(name: str) -> list[str]:
    """Return the names of the modules around a module, outermost first."""
    return list(accumulate(name.split(".")[:-1], lambda path, part: f"{path}.{part}"))
