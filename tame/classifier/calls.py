"""Name one call of a module that runs several times: ``pool#1`` is the first call of ``pool`` in a forward pass."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

from torch import nn

from tame.classifier.locks import network_lock
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.threads import in_this_thread

logger = logging.getLogger("tame")

_CALL = re.compile(r"(.+)#([1-9][0-9]*)")


def split_call(layer: str) -> tuple[str, int | None]:
    """Return the module's name and the number of the call, from 1; None for a plain name, which means the last call.

    Example:
        >>> split_call("pool#2"), split_call("layer4.1")
        (('pool', 2), ('layer4.1', None))
    """
    found = _CALL.fullmatch(layer)
    return (found[1], int(found[2])) if found else (layer, None)


def call_names(paths: Sequence[str]) -> list[str]:
    """Return the layer name of each call, given the names of the called modules in the order of their calls.

    Modules that are called once keep their plain name.

    Example:
        >>> call_names(["conv1", "pool", "conv2", "pool"])
        ['conv1', 'pool#1', 'conv2', 'pool#2']
    """
    counts = {path: 0 for path in paths}
    numbers = []
    for path in paths:
        counts[path] += 1
        numbers.append(counts[path])
    return [f"{path}#{number}" if counts[path] > 1 else path for path, number in zip(paths, numbers, strict=True)]


@contextmanager
def call_hook(module: nn.Module, layer: str, hook: Callable[[Any], Any]) -> Iterator[None]:
    """Within the context, which is for one forward pass, pass the output of ``layer`` to ``hook``.

    Forward passes of other threads do not meet the hook.

    Args:
        module: A classifier.
        layer: Name of a module (the hook runs at each call), or of one of its calls.
        hook: Function of the output; what it returns replaces the output, unless it is None.
    """
    path, number = split_call(layer)
    seen = 0

    def at_call(_module: nn.Module, _arguments: object, output: Any) -> Any:
        nonlocal seen
        seen += 1
        return hook(output) if number in (None, seen) else None

    with network_lock(module):
        handle = module.get_submodule(path).register_forward_hook(in_this_thread(at_call))
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def count_calls(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, int]]:
    """Count the calls of the layers' modules within the context."""
    counts = dict.fromkeys(layers, 0)

    def hook_of(layer: str) -> Callable[[Any], None]:
        return lambda _output: counts.update({layer: counts[layer] + 1})

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(call_hook(module, layer, hook_of(layer)))
        yield counts


def say_last_calls(counts: Mapping[str, int], spec: BackboneSpec) -> None:
    """Log which layers are modules that are called several times, except where the spec names them so."""
    named = {spec.cam_layer, *(layer for layers in spec.layers.values() for layer in layers)}
    for layer, count in counts.items():
        if count > 1 and split_call(layer)[1] is None and layer not in named:
            logger.warning(
                "%s is called %d times: the output of its last call is read; %s#1 names the first call",
                layer,
                count,
                layer,
            )


def check_layer(module: nn.Module, layer: str) -> None:
    """Check that ``module`` has the submodule that ``layer`` names.

    Raises:
        InputError: If it has none, listing similar names.
    """
    known = dict(module.named_modules())
    if split_call(layer)[0] not in known:
        near = get_close_matches(layer, known, n=3)
        similar = ", ".join(near) or "none"
        raise InputError(f"{layer!r} is not a layer of {type(module).__name__}; similar names: {similar}")
