"""Where features are read: the output of named modules, found in the traced graph or caught by hooks."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any
from weakref import WeakSet

import torch
import torchvision
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torchvision.models.feature_extraction import NodePathTracer

from tame.utils.checks import InputError

logger = logging.getLogger("tame")

_UNTRACEABLE = WeakSet[nn.Module]()  # tried before: neither tried nor reported again


def build_extractor(module: nn.Module, layers: Sequence[str]) -> GraphModule | HookedExtractor:
    """Return a module that maps an input to ``{"0": tap, "1": tap, ..., "logits": logits}``.

    A graph of ``module`` where `torch.fx` can trace it; else hooks, and a line of the log says so.

    Parameters are shared with ``module``. Layers are modules' names: the tracer's own node names strip a trailing
    ``_1`` (module ``ln_2`` becomes node ``ln_1``) and are never used. A module that is called several times stands
    for its last call. What could overwrite a tap works on a copy of it. Gradients of the logits reach the taps.

    Args:
        module: A classifier, in eval mode.
        layers: Names as in ``module.named_modules()``.

    Raises:
        InputError: For a classifier that does not return one tensor; for a name that is no module, a module that the
            forward pass never reaches, or two names of the same output (with hooks: not before the first pass).
    """
    for layer in layers:
        check_layer(module, layer)
    if module not in _UNTRACEABLE:
        try:
            graph, paths = trace(module)
        except InputError as error:
            use_hooks(module, str(error))
        else:
            return _graph_extractor(module, layers, graph, paths)
    return HookedExtractor(module, layers)


def use_hooks(module: nn.Module, reason: str) -> None:
    """Read the layers of ``module`` with hooks from now on; a line of the log says why."""
    if module not in _UNTRACEABLE:
        _UNTRACEABLE.add(module)
        logger.info("%s; its layers are read with hooks instead", reason)


class HookedExtractor(nn.Module):
    """Reads layers with hooks that exist for one pass at a time, see `build_extractor`.

    Args:
        module: A classifier, in eval mode; shared.
        layers: Names as in ``module.named_modules()``.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.training = False
        self.module = module
        self.layers = tuple(layers)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Run the classifier; return its taps by number and its ``logits``.

        Raises:
            InputError: For a layer that is never reached, two of the same output, or no tensor of logits.
        """
        taps: dict[int, Any] = {}
        passed_on: dict[int, Any] = {}

        def hook_of(index: int) -> Callable[[nn.Module, object, object], object]:
            def hook(_module: nn.Module, _arguments: object, output: object) -> object:
                taps[index], passed_on[index] = output, _copy(output)
                return passed_on[index]

            return hook

        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                stack.callback(self.module.get_submodule(layer).register_forward_hook(hook_of(index)).remove)
            logits = self.module(inputs)
        for index, layer in enumerate(self.layers):
            if index not in taps:
                raise _never_reached(self.module, layer)
            if any(taps[index] is passed_on[other] for other in taps if other != index):
                raise _same_output(self.layers)
        if not isinstance(logits, Tensor):
            raise _no_logits(logits)
        return {str(index): taps[index] for index in range(len(self.layers))} | {"logits": logits}


def _graph_extractor(module: nn.Module, layers: Sequence[str], graph: Graph, paths: dict[Node, str]) -> GraphModule:
    """Return the traced graph with taps as outputs."""
    taps = [tap_node(module, layer, paths) for layer in layers]
    if len(set(taps)) < len(taps):
        raise _same_output(layers)
    for tap in taps:
        users = [user for user in tap.users if not _makes_its_own(module, user)]
        if not users:
            continue
        with graph.inserting_after(tap):
            copied = graph.call_function(_copy, (tap,))
        for user in users:
            user.replace_input_with(tap, copied)
    (output,) = (node for node in graph.nodes if node.op == "output")
    logits = output.args[0]
    if not isinstance(logits, Node):
        raise _no_logits(logits)
    output.args = ({str(index): tap for index, tap in enumerate(taps)} | {"logits": logits},)
    return GraphModule(module, graph).eval()


def hooked_outputs(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Any]:
    """Run ``module`` and return copies of what each named layer put out at its last call."""
    return observe(module, layers, inputs)[0]


def observe(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> tuple[list[Any], Any]:
    """Run ``module`` as it is, without gradients.

    Returns:
        Copies of what each named layer put out at its last call, and what the module returned.

    Raises:
        InputError: For a layer that is never reached.
    """
    outputs: dict[str, Any] = {}

    def hook_of(layer: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _arguments, output: outputs.update({layer: _copy(output)})

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(module.get_submodule(layer).register_forward_hook(hook_of(layer)).remove)
        with torch.no_grad():
            result = module(inputs)
    for layer in layers:
        if layer not in outputs:
            raise _never_reached(module, layer)
    return [outputs[layer] for layer in layers], result


def different(extractor: nn.Module, inputs: Tensor, expected: Sequence[Tensor], logits: Tensor) -> int:
    """Return the number, from 1, of the first tap (or, behind them, the logits) that is not as expected; 0 for none.

    A traced graph must give the same to the last bit; one that cannot run differs from its first tap on. With hooks
    the network itself runs, and rounding may differ from pass to pass, as on GPUs.
    """
    try:
        tapped = extractor(inputs)
    except Exception as error:
        if isinstance(error, InputError) or isinstance(extractor, HookedExtractor):
            raise
        return 1
    for number, (got, want) in enumerate(zip(tapped.values(), (*expected, logits), strict=True), start=1):
        close = 1e-2 * float(want.abs().amax()) if isinstance(extractor, HookedExtractor) else 0
        same = isinstance(got, Tensor) and got.shape == want.shape
        if not (same and torch.allclose(got, want, rtol=0, atol=close, equal_nan=True)):
            return number
    return 0


def trace(module: nn.Module) -> tuple[Graph, dict[Node, str]]:
    """Return the graph of ``module`` and the path of every node: the modules around it, then its own name.

    Every module is traced through to its smallest parts, so that taps inside torchvision's own blocks exist too.
    ``GraphModule(module, graph)`` makes it run.

    Raises:
        InputError: For a module that cannot be traced.
    """
    tracer = NodePathTracer(leaf_modules=[], autowrap_modules=(math, torchvision.ops))
    try:
        # a copy that shares parameters and buffers: what a forward pass keeps for the next one would be no tensor
        shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
        copied = copy.deepcopy(module, shared)
        graph = tracer.trace(copied)
        for node in graph.nodes:  # constants that the tracer found and named
            if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
                setattr(module, node.target, getattr(copied, node.target))
    except Exception as error:  # a forward pass can refuse the tracer's values in any way
        reason = " ".join(str(error).split())
        raise InputError(f"{type(module).__name__} cannot be traced by torch.fx: {reason}") from error
    return graph, dict(tracer.node_to_qualname)


def check_layer(module: nn.Module, layer: str) -> None:
    """Check that ``layer`` names a module.

    Raises:
        InputError: With near names.
    """
    known = dict(module.named_modules())
    if layer not in known:
        near = get_close_matches(layer, known, n=3)
        raise InputError(f"{layer!r} is no layer of {type(module).__name__}; near names: {', '.join(near) or 'none'}")


def tap_node(module: nn.Module, layer: str, paths: dict[Node, str]) -> Node:
    """Return the node of the output of ``layer``; ``paths`` is in the order of execution."""
    check_layer(module, layer)
    calls = [node for node in paths if node.op == "call_module" and node.target == layer]
    inside = [node for node, path in paths.items() if path.startswith(f"{layer}.")]
    if not (calls or inside):
        raise _never_reached(module, layer)
    return (calls or inside)[-1]


def _never_reached(module: nn.Module, layer: str) -> InputError:
    return InputError(f"layer {layer!r} is never reached by the forward pass of {type(module).__name__}")


def _same_output(layers: Sequence[str]) -> InputError:
    return InputError(f"expected different layers, got the same output twice in {', '.join(layers)}")


def _no_logits(result: object) -> InputError:
    return InputError(f"expected a classifier that returns one tensor of logits, got {result}")


# Layers whose output never shares memory with their input.
_OWN_OUTPUT = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.MaxPool2d)


def _makes_its_own(module: nn.Module, user: Node) -> bool:
    """Whether a node only reads its input, so that nothing behind it can write there."""
    return user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), _OWN_OUTPUT)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
