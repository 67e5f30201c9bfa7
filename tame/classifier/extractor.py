"""Read the outputs of named modules from a graph traced by `torch.fx`, or with forward hooks."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
import torchvision
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torchvision.models.feature_extraction import NodePathTracer

from tame.classifier.calls import call_hook, check_layer, split_call
from tame.classifier.locks import network_lock
from tame.utils.checks import InputError
from tame.utils.threads import process_lock

logger = logging.getLogger("tame")

_TRACING = process_lock()  # two traces at once would restore each other's patches of `nn.Module.__call__`
_UNTRACEABLE = WeakSet[nn.Module]()  # modules for which tracing failed once; it is not tried or logged again


def build_extractor(module: nn.Module, layers: Sequence[str]) -> GraphModule | HookedExtractor:
    """Return a module that maps an input to ``{"0": feature, "1": feature, ..., "logits": logits}``.

    The module is a traced graph where `torch.fx` can trace ``module``, otherwise it uses forward hooks, with a log
    message.

    Parameters are shared with ``module``. Layers are named by their modules: the tracer's own node names drop a
    trailing ``_1`` (module ``ln_2`` becomes node ``ln_1``) and are never used. If a module is called several times,
    ``name#1`` is its first call, and its plain name means the last one. Later operations get a copy of a feature, so
    that in-place ones do not overwrite it. Gradients of the logits reach the features.

    Args:
        module: A classifier, in eval mode.
        layers: Names as in ``module.named_modules()``, or of single calls, see `tame.classifier.calls`.

    Raises:
        InputError: If the classifier does not return one tensor, a layer does not exist or is not reached by the
            forward pass, or two layers have the same output (with hooks, raised in the first forward pass).
    """
    for layer in layers:
        check_layer(module, layer)
    if module not in _UNTRACEABLE:
        try:
            traced = trace(module)
        except InputError as error:
            use_hooks(module, str(error))
        else:
            return _graph_extractor(module, layers, traced)
    return HookedExtractor(module, layers)


def use_hooks(module: nn.Module, reason: str) -> None:
    """Read the layers of ``module`` with forward hooks from now on, with a log message that gives the reason."""
    if module not in _UNTRACEABLE:
        _UNTRACEABLE.add(module)
        logger.info("%s; its layers are read with forward hooks instead", reason)


class HookedExtractor(nn.Module):
    """Reads layers with forward hooks that are registered for one pass at a time, see `build_extractor`.

    Args:
        module: A classifier, in eval mode; it is shared, not copied.
        layers: Names as in ``module.named_modules()``.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.training = False
        self.module = module
        self.layers = tuple(layers)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Run the classifier; return its features by number and its ``logits``.

        Raises:
            InputError: If a layer is not reached, two layers have the same output, or the logits are no tensor.
        """
        features: dict[int, Any] = {}
        passed_on: dict[int, Any] = {}

        def hook_of(index: int) -> Callable[[object], object]:
            def hook(output: object) -> object:
                features[index], passed_on[index] = output, _copy(output)
                return passed_on[index]

            return hook

        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                stack.enter_context(call_hook(self.module, layer, hook_of(index)))
            logits = self.module(inputs)
        for index, layer in enumerate(self.layers):
            if index not in features:
                raise _never_reached(self.module, layer)
            if any(features[index] is passed_on[other] for other in features if other != index):
                raise _same_output(self.layers)
        if not isinstance(logits, Tensor):
            raise _no_logits(logits)
        return {str(index): features[index] for index in range(len(self.layers))} | {"logits": logits}


def _graph_extractor(module: nn.Module, layers: Sequence[str], traced: Traced) -> GraphModule:
    """Return the traced graph with the layers' outputs and the logits as its outputs."""
    graph = traced.graph
    features = [layer_node(module, layer, traced) for layer in layers]
    if len(set(features)) < len(features):
        raise _same_output(layers)
    for feature in features:
        users = [user for user in feature.users if not _allocates_output(module, user)]
        if not users:
            continue
        with graph.inserting_after(feature):
            copied = graph.call_function(_copy, (feature,))
        for user in users:
            user.replace_input_with(feature, copied)
    (output,) = (node for node in graph.nodes if node.op == "output")
    logits = output.args[0]
    if not isinstance(logits, Node):
        raise _no_logits(logits)
    output.args = ({str(index): feature for index, feature in enumerate(features)} | {"logits": logits},)
    return GraphModule(module, graph).eval()


def hooked_outputs(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Any]:
    """Run ``module`` without gradients and return copies of the outputs of layers."""
    return hooked_outputs_and_result(module, layers, inputs)[0]


def hooked_outputs_and_result(module: nn.Module, layers: Sequence[str], inputs: Tensor) -> tuple[list[Any], Any]:
    """Run ``module`` without gradients and read layers with forward hooks.

    Returns:
        Copies of the layers' outputs (of a plain name: of the module's last call), and the module's return value.

    Raises:
        InputError: If a layer is not reached by the forward pass.
    """
    outputs: dict[str, Any] = {}

    def hook_of(layer: str) -> Callable[[object], None]:
        return lambda output: outputs.update({layer: _copy(output)})

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(call_hook(module, layer, hook_of(layer)))
        with torch.no_grad():
            result = module(inputs)
    for layer in layers:
        if layer not in outputs:
            raise _never_reached(module, layer)
    return [outputs[layer] for layer in layers], result


def first_difference(extractor: nn.Module, inputs: Tensor, expected: Sequence[Tensor], logits: Tensor) -> int:
    """Compare an extractor's outputs with the expected features, followed by the logits.

    Outputs of a traced graph must be bitwise equal. With hooks the network itself runs, and its rounding may differ
    from pass to pass, as on GPUs: a difference of 1 % of the largest value is tolerated.

    Returns:
        The position, from 1, of the first output that differs; 0 if none does, 1 if the traced graph fails to run.
    """
    try:
        outputs = extractor(inputs)
    except Exception as error:
        if isinstance(error, InputError) or isinstance(extractor, HookedExtractor):
            raise
        return 1
    for number, (got, want) in enumerate(zip(outputs.values(), (*expected, logits), strict=True), start=1):
        close = 1e-2 * float(want.abs().amax()) if isinstance(extractor, HookedExtractor) else 0
        same = isinstance(got, Tensor) and got.shape == want.shape
        if not (same and torch.allclose(got, want, rtol=0, atol=close, equal_nan=True)):
            return number
    return 0


class Traced(NamedTuple):
    """A traced network.

    Attributes:
        graph: Its graph.
        paths: Qualified name of every node (its module's path, then its own name), in the order of execution.
        calls: By module name, the node that ends each of its calls, in order; None where the call returns no node.
    """

    graph: Graph
    paths: dict[Node, str]
    calls: dict[str, list[Node | None]]


class _Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision has no types
    """Records where in the graph each call of a module ends.

    While it traces, `torch.fx` sends it every call and attribute of every module of the process: those of other threads
    go on as they are.
    """

    def __init__(self) -> None:
        super().__init__(leaf_modules=[], autowrap_modules=(math, torchvision.ops))
        self.calls: dict[str, list[Node | None]] = {}
        self.thread = threading.get_ident()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module."""
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace one call."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        before = len(self.graph.nodes)
        result = super().call_module(m, forward, args, kwargs)
        if len(self.graph.nodes) > before:  # the last operation: the returned value may have been changed in place
            end = next(iter(reversed(self.graph.nodes)))
        else:
            end = result.node if isinstance(result, Proxy) else None
        self.calls.setdefault(self.path_of_module(m), []).append(end)
        return result


def trace(module: nn.Module) -> Traced:
    """Trace ``module``; one thread at a time.

    No module is treated as a leaf, so that layers inside torch's and torchvision's own blocks can be read too.
    ``GraphModule(module, graph)`` runs the graph.

    Raises:
        InputError: For a module that cannot be traced.
    """
    tracer = _Tracer()
    try:
        with network_lock(module):
            # trace a copy that shares parameters and buffers: a forward pass that caches values would cache proxies
            shared = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
            copied = copy.deepcopy(module, shared)
            with _TRACING:
                graph = tracer.trace(copied)
            for node in graph.nodes:  # constant tensors that the tracer stored on the copy
                if node.op == "get_attr" and node.target.startswith("_tensor_constant"):
                    setattr(module, node.target, getattr(copied, node.target))
    except Exception as error:  # a forward pass may fail on the tracer's proxies with any error
        reason = " ".join(str(error).split())
        raise InputError(f"{type(module).__name__} cannot be traced by torch.fx: {reason}") from error
    return Traced(graph, dict(tracer.node_to_qualname), tracer.calls)


def layer_node(module: nn.Module, layer: str, traced: Traced) -> Node:
    """Return the graph node that computes the output of ``layer``."""
    check_layer(module, layer)
    path, number = split_call(layer)
    ends = traced.calls.get(path, [])
    end = ends[(number or len(ends)) - 1] if 0 < (number or 1) <= len(ends) else None
    if end is None:
        raise _never_reached(module, layer)
    return end


def _never_reached(module: nn.Module, layer: str) -> InputError:
    return InputError(f"layer {layer!r} is never reached by the forward pass of {type(module).__name__}")


def _same_output(layers: Sequence[str]) -> InputError:
    return InputError(f"expected layers with different outputs, got the same output twice in {', '.join(layers)}")


def _no_logits(result: object) -> InputError:
    return InputError(f"expected a classifier that returns one tensor of logits, got {result}")


# Layers whose output never shares memory with their input.
_ALLOCATING = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.MaxPool2d)


def _allocates_output(module: nn.Module, user: Node) -> bool:
    """Whether a node only reads its input, so that no later in-place operation can overwrite it."""
    return user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), _ALLOCATING)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
