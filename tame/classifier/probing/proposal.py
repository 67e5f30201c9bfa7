"""Propose feature layers and infer the token layout of any classifier from one recorded forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from tame.classifier.calls import split_call
from tame.classifier.probing.parallel import Candidate, Choice, beside, choose, say_choices
from tame.classifier.probing.recorder import (
    Call,
    RecordedPass,
    layers_hidden,
    positions,
    random_images,
    reaches_score,
    record_calls,
    recorded_pass,
)
from tame.classifier.spec import BackboneSpec, TokenLayout
from tame.utils.checks import InputError

MAX_PREFIX = 16
"""Largest number of prefix tokens that is considered: class token, distillation token, registers."""


def propose_layers(spec: BackboneSpec, module: nn.Module, count: int = 3) -> tuple[str, ...]:
    """Propose up to ``count`` feature layers, earliest first.

    Networks of feature maps: the last outermost module at each of the last ``count`` resolutions. Networks of tokens:
    the first norm (before attention) of the last ``count`` blocks; where there are fewer, feature maps before them.
    Only layers whose positions have a gradient of the logits are proposed: after the last block of a transformer with a
    class token, patch tokens have none.

    Args:
        spec: Specification of the classifier: input shape and, for transformers, token layout.
        module: The classifier, in eval mode.
        count: Largest number of layers.

    Raises:
        InputError: If no layer qualifies, or most of the network works on tokens of unknown layout.
    """
    with recorded_pass(spec, module) as recorded:
        return propose_from(module, recorded, spec, count)


def propose_from(module: nn.Module, recorded: RecordedPass, spec: BackboneSpec, count: int = 3) -> tuple[str, ...]:
    """Propose layers as `propose_layers` does, from a recorded pass."""
    if why := layers_hidden(module, recorded):
        raise InputError(f"{spec.name} {why}; only methods without gradients and layers, such as rise, can explain it")
    calls = [call for call in recorded.calls if isinstance(call.output, Tensor) and call.output.requires_grad]
    choices, layers = list[Choice](), list[str]()
    for pool in reversed(_pools(calls, module, spec)):
        hits = reaches_score(recorded.score, [candidate.output for candidate in pool], spec)
        reaching = [candidate for candidate, hit in zip(pool, hits, strict=True) if hit]
        of_tokens = pool[-1].output.ndim == 3
        if reaching and len(layers) < count and (of_tokens or hits[-1]):
            choices.insert(0, choose(reaching, recorded.images, spec, count if of_tokens else 1))
            layers = [candidate.name for choice in choices for candidate in choice.read]
    if spec.tokens is None:
        _check_mostly_maps(calls, layers, spec)
    if not layers:
        raise InputError(f"no feature layers found in {spec.name}; choose them by module name (layers)")
    say_choices(choices, spec.name)
    return tuple(layers)


def gradient_cut(spec: BackboneSpec, module: nn.Module) -> str:
    """Return why the logits of a network have no gradients or its layers cannot be read; empty if neither is so."""
    with recorded_pass(spec, module) as recorded:
        why = layers_hidden(module, recorded)
    return f"{spec.name} {why}; only methods without gradients and layers, such as rise, can explain it" if why else ""


def find_tokens(module: nn.Module, shape: tuple[int, int, int]) -> TokenLayout | None:
    """Infer how the token sequences of a network are reshaped to maps; None for a network of feature maps.

    The last convolution before the first sequence embeds the patches: its output (h, w) is the grid, n = h * w. The
    prefix are the further tokens, 0 to 16, of sequences (1, n', D): n' - n. The layout is accepted if more than half of
    the later outputs, maps and sequences, are sequences of this length n'.

    Args:
        module: A classifier, in eval mode.
        shape: (C, H, W) of its input.

    Raises:
        InputError: If the network rejects such an input.
    """
    with torch.no_grad():
        calls, _ = record_calls(module, random_images(module, shape), type(module).__name__)
    calls = [call for call in calls if isinstance(call.output, Tensor) and call.output.ndim in (3, 4)]
    starts = (index for index, call in enumerate(calls) if call.output.ndim == 3 and call.output.shape[1] > 1)
    start = next(starts, 0)
    grids = [call.output.shape[2:] for call in calls[:start] if isinstance(call.module, nn.Conv2d)]
    if not grids:
        return None
    height, width = grids[-1]
    patches = height * width
    later = [call.output.shape for call in calls[start:] if call.output.shape[1:-1].numel() > 1]
    lengths = Counter(shape[1] for shape in later if len(shape) == 3 and shape[0] == 1)
    fitting = {length: lengths[length] for length in lengths if 0 <= length - patches <= MAX_PREFIX}
    length = max(fitting, key=fitting.__getitem__, default=0)
    if 2 * fitting.get(length, 0) <= len(later):
        return None
    return TokenLayout(prefix=length - patches, grid=(height, width))


def _pools(calls: Sequence[Call], module: nn.Module, spec: BackboneSpec) -> list[list[Candidate]]:
    """Return the layers to choose from: of feature maps by resolution, largest first; then those of tokens."""
    maps = _deepest_maps(calls, spec)
    if spec.tokens is None:
        return maps
    norms, (height, width) = _first_norms(calls, module, spec.tokens), spec.tokens.grid
    before = [pool for pool in maps if math.prod(positions(pool[0].output, spec) or ()) > height * width]
    return [*before, *([norms] if norms else [])]


def _deepest_maps(calls: Iterable[Call], spec: BackboneSpec) -> list[list[Candidate]]:
    """Return the outermost modules at each resolution, in order; largest resolution first."""
    calls = list(calls)
    # inside a block that keeps the resolution, parts with another resolution (attention, windows) are not stages
    blocks = {
        call.path: shape
        for call in calls
        if (shape := positions(call.output, spec)) and shape == positions(call.input, spec)
    }
    called = {call.path for call in calls}
    best: dict[tuple[int, ...], tuple[int, list[Candidate]]] = {}  # by resolution: number of enclosing modules, layers
    for name, path, part, _input, output in calls:
        shape = positions(output, spec)
        if shape is None or len(shape) != 2 or max(shape) == 1 or isinstance(part, nn.AdaptiveAvgPool2d | nn.ZeroPad2d):
            continue
        if any(blocks.get(parent, shape) != shape for parent in _parents(path)):
            continue
        depth = len(called.intersection(_parents(path)))
        if shape not in best or depth < best[shape][0]:
            best[shape] = depth, []
        if depth == best[shape][0]:
            best[shape][1].append(Candidate(name, path, output))
    return [best[shape][1] for shape in sorted(best, key=lambda shape: shape[0] * shape[1], reverse=True)]


def _first_norms(calls: Iterable[Call], module: nn.Module, tokens: TokenLayout) -> list[Candidate]:
    """Return the first norm over all tokens of every call of a block, in order.

    A norm keeps the shape of its input, and none of its parameters has more values than there are channels. Blocks are
    the entries of the outermost module lists of which several entries contain such norms; without such lists, the
    parent modules of the norms.
    """
    length = tokens.prefix + tokens.grid[0] * tokens.grid[1]
    norms = [
        Candidate(call.name, call.path, call.output)
        for call in calls
        if call.output.ndim == 3 and call.output.shape[1] == length and _is_norm(call)
    ]
    lists = [path for path, part in module.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    # by list: the first norm of each of its entries, in order
    members: dict[str, dict[str, Candidate]] = {path: {} for path in lists}
    for norm in norms:
        for parent in _parents(norm.path):
            members.get(parent.rpartition(".")[0], {}).setdefault(parent, norm)
    for path, entries in members.items():
        firsts = list(entries.values())
        if beside([*firsts[:1], *firsts[1:][-1:]]):  # networks side by side are no blocks
            members[path] = {}
    inside, outside = dict[tuple[str, int], Candidate](), dict[tuple[str, int], Candidate]()
    for norm in norms:
        number = split_call(norm.name)[1] or 1
        blocks = (parent for parent in _parents(norm.path) if len(members.get(parent.rpartition(".")[0], ())) > 1)
        if block := next(blocks, ""):
            inside.setdefault((block, number), norm)
        else:
            outside.setdefault((norm.path.rpartition(".")[0], number), norm)
    return list((inside or outside).values())


def _is_norm(call: Call) -> bool:
    """Whether a module without submodules kept the shape of its input and normalises or scales it per channel."""
    if any(True for _ in call.module.children()) or call.input is None or call.input.shape != call.output.shape:
        return False
    sizes = [parameter.numel() for parameter in call.module.parameters()]
    return isinstance(call.module, nn.LayerNorm) or (bool(sizes) and max(sizes) <= call.output.shape[-1])


def _check_mostly_maps(calls: list[Call], layers: list[str], spec: BackboneSpec) -> None:
    """Check that there are no more outputs of tokens after the last of ``layers`` than outputs of maps up to it."""
    names = [call.name for call in calls]
    last = max((index for index, name in enumerate(names) if name in layers), default=-1)
    shapes = [positions(call.output, spec) or () for call in calls]
    maps = sum(len(shape) == 2 for shape in shapes[: last + 1])
    if sum(len(shape) == 1 and shape[0] > 1 for shape in shapes[last + 1 :]) > maps:
        raise InputError(
            f"most of {spec.name} works on token sequences of unknown layout: describe its tokens in the spec, or "
            "choose layers that return feature maps (layers)"
        )


def _parents(name: str) -> list[str]:
    """Return the names of the modules that contain a module, outermost first."""
    return list(accumulate(name.split(".")[:-1], lambda path, part: f"{path}.{part}"))
