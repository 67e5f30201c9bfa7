"""Where features are read: module names, translated to the tracer's node names and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from tame.checks import InputError

# Every module is traced through to its smallest parts, so that taps inside torchvision's own blocks exist too.
_TRACING: dict[str, Any] = {"leaf_modules": [], "autowrap_modules": (math, torchvision.ops)}


def _trace(module: nn.Module) -> tuple[list[Node], dict[Node, str]]:
    tracer = NodePathTracer(**_TRACING)
    graph = tracer.trace(module)
    return list(graph.nodes), dict(tracer.node_to_qualname)


def _tap_nodes(module: nn.Module, layers: Sequence[str], nodes: list[Node], qualnames: dict[Node, str]) -> list[Node]:
    known = dict(module.named_modules())
    taps: list[Node] = []
    for layer in layers:
        if layer not in known:
            near = get_close_matches(layer, known, n=3)
            raise InputError(
                f"{layer!r} is no layer of {type(module).__name__}; near names: {', '.join(near) or 'none'}"
            )
        calls = [node for node in nodes if node.op == "call_module" and node.target == layer]
        inside = [node for node in nodes if qualnames.get(node, "").startswith(f"{layer}.")]
        if not (calls or inside):
            raise InputError(f"layer {layer!r} is never reached by the forward pass of {type(module).__name__}")
        taps.append((calls or inside)[-1])
    if len(set(taps)) < len(taps):
        raise InputError(f"expected different layers, got the same output twice in {', '.join(layers)}")
    return taps


def node_names(module: nn.Module, layers: Sequence[str]) -> list[str]:
    """Translate module names to node names of torchvision's tracer.

    The tracer strips a trailing ``_1`` from names, so that module ``ln_1`` becomes node ``ln`` and module
    ``ln_2`` becomes node ``ln_1``: a node name must never be used where a module name is meant. A module that
    is called several times stands for its last call.

    Args:
        module: A traceable classifier.
        layers: Names as in ``module.named_modules()``.

    Returns:
        One node name per layer.

    Raises:
        InputError: For a name that is no module, a module that the forward pass never reaches, or two names of
            the same output.
    """
    nodes, qualnames = _trace(module)
    return [qualnames[node] for node in _tap_nodes(module, layers, nodes, qualnames)]


def build_extractor(module: nn.Module, layers: Sequence[str]) -> GraphModule:
    """Return a graph module that maps an input to ``{"0": tap, "1": tap, ..., "logits": logits}``.

    Parameters are shared with ``module``. In-place activations that would overwrite a tap are made to write
    elsewhere.

    Raises:
        InputError: See `node_names`; also if the classifier does not return one tensor.
    """
    nodes, qualnames = _trace(module)
    (output,) = (node for node in nodes if node.op == "output")
    logits = output.args[0]
    if not isinstance(logits, Node):
        raise InputError(f"expected a classifier that returns one tensor of logits, got {logits}")
    taps = _tap_nodes(module, layers, nodes, qualnames)
    for tap in taps:
        for user in tap.users:
            follower = module.get_submodule(str(user.target)) if user.op == "call_module" else None
            if getattr(follower, "inplace", False):
                follower.inplace = False  # type: ignore[union-attr] # just checked
    returned = {qualnames[tap]: str(index) for index, tap in enumerate(taps)} | {qualnames[logits]: "logits"}
    return create_feature_extractor(module, return_nodes=returned, tracer_kwargs=_TRACING, suppress_diff_warning=True)


def hooked_outputs(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Any]:
    """Run ``module`` and return what each named layer put out at its last call."""
    outputs: dict[str, Any] = {}
    handles = [
        module.get_submodule(layer).register_forward_hook(
            lambda _module, _args, output, layer=layer: outputs.__setitem__(layer, output)
        )
        for layer in layers
    ]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [outputs[layer] for layer in layers]
