"""Where features are read: the output of named modules, found in the traced graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.proxy import TraceError
from torchvision.models.feature_extraction import NodePathTracer

from tame.checks import InputError


def build_extractor(module: nn.Module, layers: Sequence[str]) -> GraphModule:
    """Return a graph module that maps an input to ``{"0": tap, "1": tap, ..., "logits": logits}``.

    Parameters are shared with ``module``. Layers are modules' names: the tracer's own node names strip a trailing
    ``_1`` (module ``ln_2`` becomes node ``ln_1``) and are never used. A module that is called several times stands
    for its last call. What could overwrite a tap works on a copy of it.

    Args:
        module: A traceable classifier, in eval mode.
        layers: Names as in ``module.named_modules()``.

    Raises:
        InputError: For a module that cannot be traced or does not return one tensor; for a name that is no module,
            a module that the forward pass never reaches, or two names of the same output.
    """
    graph, paths = _trace(module)
    taps = [_tap_node(module, layer, paths) for layer in layers]
    if len(set(taps)) < len(taps):
        raise InputError(f"expected different layers, got the same output twice in {', '.join(layers)}")
    for tap in taps:
        users = [user for user in tap.users if not _makes_its_own(module, user)]
        if not users:
            continue
        with graph.inserting_after(tap):
            copy = graph.call_function(_copy, (tap,))
        for user in users:
            user.replace_input_with(tap, copy)
    (output,) = (node for node in graph.nodes if node.op == "output")
    logits = output.args[0]
    if not isinstance(logits, Node):
        raise InputError(f"expected a classifier that returns one tensor of logits, got {logits}")
    output.args = ({str(index): tap for index, tap in enumerate(taps)} | {"logits": logits},)
    return GraphModule(module, graph)


def hooked_outputs(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Any]:
    """Run ``module`` and return copies of what each named layer put out at its last call."""
    outputs: dict[str, Any] = {}
    handles = [
        module.get_submodule(layer).register_forward_hook(
            lambda _module, _args, output, layer=layer: outputs.__setitem__(layer, _copy(output))
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


def _trace(module: nn.Module) -> tuple[Graph, dict[Node, str]]:
    """Return the graph of ``module`` and the path of every node: the modules around it, then its own name.

    Every module is traced through to its smallest parts, so that taps inside torchvision's own blocks exist too.
    """
    tracer = NodePathTracer(leaf_modules=[], autowrap_modules=(math, torchvision.ops))
    try:
        graph = tracer.trace(module)
    except (TraceError, TypeError) as error:
        raise InputError(f"{type(module).__name__} cannot be traced by torch.fx: {error}") from error
    return graph, dict(tracer.node_to_qualname)


def _tap_node(module: nn.Module, layer: str, paths: dict[Node, str]) -> Node:
    """Return the node of the output of ``layer``; ``paths`` is in the order of execution."""
    known = dict(module.named_modules())
    if layer not in known:
        near = get_close_matches(layer, known, n=3)
        raise InputError(f"{layer!r} is no layer of {type(module).__name__}; near names: {', '.join(near) or 'none'}")
    calls = [node for node in paths if node.op == "call_module" and node.target == layer]
    inside = [node for node, path in paths.items() if path.startswith(f"{layer}.")]
    if not (calls or inside):
        raise InputError(f"layer {layer!r} is never reached by the forward pass of {type(module).__name__}")
    return (calls or inside)[-1]


# Layers whose output never shares memory with their input.
_OWN_OUTPUT = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.MaxPool2d)


def _makes_its_own(module: nn.Module, user: Node) -> bool:
    """Whether a node only reads its input, so that nothing behind it can write there."""
    return user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), _OWN_OUTPUT)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
