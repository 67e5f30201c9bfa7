"""Split a classifier at a layer, so that the layers before it run once for many changes of its output."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from tame.classifier.calls import call_hook
from tame.classifier.extractor import hooked_outputs, layer_node, trace
from tame.classifier.frozen import FrozenClassifier
from tame.classifier.locks import network_lock
from tame.classifier.outputs import float_type
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

PROBES = 2
"""Number of random images on which a split is verified."""


class SplitClassifier(nn.Module):
    """A classifier in two parts, before and after a layer: ``after(*before(images))`` are the logits.

    It is a module, so that it is moved and copied together with the classifier, whose parameters and buffers it shares.

    Args:
        classifier: The classifier.
    """

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__()
        self.training = False
        self.classifier = classifier

    def train(self, mode: bool = True) -> Self:
        """Do nothing: the classifier stays in eval mode."""
        return self

    def _cast(self, output: Tensor) -> Tensor:
        """Cast a layer's output that was changed in float32 back to the type of a network in another precision."""
        return output.to(float_type(self.classifier.module)) if self.classifier.casts else output

    @abstractmethod
    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the classifier up to and including the layer, without gradients.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            The layer's output, in the layer's own layout, followed by the earlier values that are needed after it (such
            as the input of a residual connection), each with one row per image.
        """

    @abstractmethod
    def after(self, *values: Tensor) -> Tensor:
        """Run the classifier after the layer.

        Gradients reach the values that require them. The other values may be overwritten by in-place operations, and so
        may the first one if it requires no gradient.

        Args:
            *values: The layer's output and the other values, as returned by `before`, with any number R of rows.

        Returns:
            Logits (R, K).
        """


def split_at(classifier: FrozenClassifier, layer: str) -> SplitClassifier:
    """Split a classifier at the output of ``layer``.

    The traced graph is split in two. If that is not possible (the network cannot be traced, or a value that is needed
    after the layer does not have one row per image), `SplitClassifier.after` runs the whole network with the layer's
    output replaced: as exact but slower, with a log message.

    Args:
        classifier: The classifier.
        layer: Module name (the output of its last call is used), or one call of a module such as ``pool#1``.

    Raises:
        InputError: If the layer does not exist, or the logits do not depend on it.

    Example:
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> split = split_at(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> (output,) = split.before(torch.rand(1, 3, 4, 4))
        >>> split.after(output.expand(3, -1, -1, -1)).shape
        torch.Size([3, 2])
    """
    shape = (PROBES, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean.device)
    images[0] /= 4  # the two images differ in brightness, so that exchanged rows are detected
    with network_lock(classifier.module), torch.no_grad():
        split = _traced(classifier, layer, images)
        if split is None or not _agrees(split, images):
            logger.warning(
                "%s cannot be split at %s: the whole network is run for each change", classifier.spec.name, layer
            )
            split = _ReplacedOutput(classifier, layer, images)
    return split


class _TensorNodes(Interpreter):
    """Runs a graph and records which nodes return tensors."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        super().__init__(module, graph=graph)
        self.found: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found.add(n)
        return value


class _SplitGraph(SplitClassifier):
    """The two parts of a traced graph."""

    def __init__(self, classifier: FrozenClassifier, first: GraphModule, second: GraphModule) -> None:
        super().__init__(classifier)
        self.first, self.second = first, second

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the first part."""
        with network_lock(self.classifier.module), torch.no_grad():
            values: tuple[Tensor, ...] = self.first(self.classifier.normalise(images))
        return values

    def after(self, *values: Tensor) -> Tensor:
        """Run the second part."""
        output, *others = values
        output = self._cast(output)
        with network_lock(self.classifier.module):
            # an in-place activation may follow, and a leaf must not be modified in place
            logits: Tensor = self.second(output.clone() if output.requires_grad else output, *others)
        return logits


def _traced(classifier: FrozenClassifier, layer: str, images: Tensor) -> SplitClassifier | None:
    """Split the traced graph; return None if the network cannot be traced or its graph fails to run."""
    module = classifier.module
    try:
        traced = trace(module)
    except InputError:
        return None
    graph = traced.graph
    target = layer_node(module, layer, traced)
    nodes = list(graph.nodes)
    logits = nodes.pop().args[0]

    of_images = _dependents(nodes, {node for node in nodes if node.op == "placeholder"})
    after = _dependents(nodes, {target}) - {target}
    if logits not in after:
        raise InputError(f"expected a layer that the logits of {classifier.spec.name} depend on, got {layer!r}")
    tensors = _TensorNodes(module, graph)
    try:
        tensors.run(classifier.normalise(images))
    except Exception:  # a graph can contain operations that only work on the tracer's proxies
        return None

    # Inputs of the second part: tensors that depend on the images are passed on from the first part; the others
    # (weights, and sizes, which contain the number of rows) are computed again.
    recomputed, passed_on = set[Node](), set[Node]()
    waiting = list(after)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node in after or node in recomputed or node is target:
                continue
            if node in of_images and node in tensors.found:
                passed_on.add(node)
            else:
                recomputed.add(node)
                waiting.append(node)
    border = [target, *(node for node in nodes if node in passed_on)]
    last = max(map(nodes.index, border))
    first = _part(module, (), [node for node in nodes[: last + 1] if node not in after], border)
    second = _part(module, border, [node for node in nodes if node in after | recomputed], logits)
    return _SplitGraph(classifier, first, second)


def _dependents(nodes: Iterable[Node], start: set[Node]) -> set[Node]:
    """Return ``start`` and every node that depends on it; ``nodes`` are in the order of execution."""
    found = set(start)
    for node in nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _part(
    module: nn.Module, inputs: Sequence[Node], nodes: Sequence[Node], result: Node | Sequence[Node]
) -> GraphModule:
    """Return the subgraph that computes ``result`` from the values of ``inputs`` by the operations ``nodes``."""
    graph = Graph()
    copies = {node: graph.placeholder(f"input_{index}") for index, node in enumerate(inputs)}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[result] if isinstance(result, Node) else tuple(copies[node] for node in result))
    return GraphModule(module, graph)


def _agrees(split: SplitClassifier, images: Tensor) -> bool:
    """Whether a split returns the network's own logits, also with rows repeated between its two parts.

    They may differ by the rounding of the arithmetic, relative to the largest logit: 1 % in half precision (bfloat16
    keeps 8 bits), 0.1 % in float32 on a GPU (TensorFloat-32 keeps 11 bits), otherwise 0.001 %. A wrong refusal only
    costs time: the whole network is run.
    """
    rows = torch.tensor([1, 0, 1], device=images.device)
    expected = split.classifier.logits(images[rows])
    values = split.before(images)
    try:
        found = split.after(*(value[rows] for value in values))
    except (IndexError, RuntimeError):  # mismatched shapes
        return False
    half = torch.is_autocast_enabled(images.device.type) or torch.finfo(float_type(split.classifier.module)).bits < 32
    share = 1e-2 if half else 1e-3 if images.is_cuda else 1e-5
    tolerance = share * float(expected.abs().amax())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=tolerance)


class _ReplacedOutput(SplitClassifier):
    """The whole network, run with the output of the layer replaced; `before` passes on its inputs."""

    def __init__(self, classifier: FrozenClassifier, layer: str, images: Tensor) -> None:
        super().__init__(classifier)
        (self.layer,) = classifier.with_layers((layer,)).layers  # checks that the layer exists and is reached
        self.calls = 0

        def count(_output: Tensor) -> None:
            self.calls += 1

        self._run(count, classifier.normalise(images))

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the whole network."""
        with torch.no_grad():
            inputs = self.classifier.normalise(images)
            return hooked_outputs(self.classifier.module, (self.layer,), inputs)[0], inputs

    def after(self, *values: Tensor) -> Tensor:
        """Run the whole network again."""
        output, inputs = values
        output = self._cast(output)
        left = self.calls

        def replace(_output: Tensor) -> Tensor | None:
            nonlocal left
            left -= 1
            return None if left else output.clone()  # see `_SplitGraph.after`

        return self._run(replace, inputs)

    def _run(self, hook: Callable[..., Tensor | None], inputs: Tensor) -> Tensor:
        with call_hook(self.classifier.module, self.layer, hook):
            logits: Tensor = self.classifier.module(inputs)
        return logits
