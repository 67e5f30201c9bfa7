"""A classifier cut in two at a layer, so that what lies before the layer runs once."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from tame.classifier.extractor import hooked_outputs, tap_node, trace
from tame.classifier.frozen import FrozenClassifier
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

PROBES = 2
"""Random images that a cut is checked with."""


class Halves(nn.Module):
    """What lies before a layer and what lies behind it: ``behind(*before(images))`` are the logits.

    A module, so that it moves and is copied together with the classifier, whose parameters and buffers it shares.

    Args:
        classifier: The classifier.
    """

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__()
        self.training = False
        self.classifier = classifier

    def train(self, mode: bool = True) -> Self:
        """Do nothing: the classifier never changes."""
        return self

    @abstractmethod
    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run what lies before the layer, without a graph of gradients.

        Args:
            images: (B, C, H, W) in [0, 1].

        Returns:
            The layer's output, in the layer's own layout, and every earlier value that is still needed behind it (the
            skip of a residual connection), each with one row per image.
        """

    @abstractmethod
    def behind(self, *values: Tensor) -> Tensor:
        """Return the logits (R, K) of values as `before` gives them, in any number of rows R.

        Gradients reach the values where they are asked for. What stands in other places than the first may be
        overwritten, and so may the first where no gradient is asked for.
        """


def cut_at(classifier: FrozenClassifier, layer: str) -> Halves:
    """Cut a classifier at the output of ``layer``.

    The traced graph is cut in two. Where that cannot be done (a module that cannot be traced, or a value that is
    needed behind the layer has not one row per image), ``behind`` runs the whole network with the layer's output
    replaced: as exact, but slower; a line of the log says so.

    Args:
        classifier: The classifier.
        layer: Name of a module; the output of its last call is meant.

    Raises:
        InputError: If the layer does not exist, or the logits do not depend on it.

    Example:
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> halves = cut_at(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> (output,) = halves.before(torch.rand(1, 3, 4, 4))
        >>> halves.behind(output.expand(3, -1, -1, -1)).shape
        torch.Size([3, 2])
    """
    shape = (PROBES, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean.device)
    images[0] /= 4  # so that the two images differ in more than noise
    with torch.no_grad():
        halves = _traced(classifier, layer, images)
        if halves is None or not _agrees(halves, images):
            logger.warning("%s cannot be cut at %s: the whole network runs instead", classifier.spec.name, layer)
            halves = _Replaced(classifier, layer, images)
    return halves


class _Tensors(Interpreter):
    """Runs a graph and remembers which nodes gave tensors."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        super().__init__(module, graph=graph)
        self.found: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found.add(n)
        return value


class _Cut(Halves):
    """The two parts of a traced graph."""

    def __init__(self, classifier: FrozenClassifier, first: GraphModule, second: GraphModule) -> None:
        super().__init__(classifier)
        self.first, self.second = first, second

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the first part."""
        with torch.no_grad():
            values: tuple[Tensor, ...] = self.first(self.classifier.normalise(images))
        return values

    def behind(self, *values: Tensor) -> Tensor:
        """Run the second part."""
        output, *others = values
        # an in-place activation may follow, and a leaf of a graph cannot be overwritten
        logits: Tensor = self.second(output.clone() if output.requires_grad else output, *others)
        return logits


def _traced(classifier: FrozenClassifier, layer: str, images: Tensor) -> Halves | None:
    """Return the halves of the traced graph; None where it cannot run."""
    module = classifier.module
    try:
        graph, paths = trace(module)
    except InputError:
        return None
    tap = tap_node(module, layer, paths)
    nodes = list(graph.nodes)
    logits = nodes.pop().args[0]

    inputs = _followers(nodes, {node for node in nodes if node.op == "placeholder"})
    behind = _followers(nodes, {tap}) - {tap}
    if logits not in behind:
        raise InputError(f"expected a layer that the logits of {classifier.spec.name} depend on, got {layer!r}")
    tensors = _Tensors(module, graph)
    try:
        tensors.run(classifier.normalise(images))
    except Exception:  # the graph may hold anything that only the tracer's values allow
        return None

    # what the second half needs: tensors of the images come from the first half; the rest (weights, and sizes,
    # which hold the number of rows) is worked out again
    again, between = set[Node](), set[Node]()
    waiting = list(behind)
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node in behind or node in again or node is tap:
                continue
            if node in inputs and node in tensors.found:
                between.add(node)
            else:
                again.add(node)
                waiting.append(node)
    border = [tap, *(node for node in nodes if node in between)]
    last = max(map(nodes.index, border))
    first = _part(module, (), [node for node in nodes[: last + 1] if node not in behind], border)
    second = _part(module, border, [node for node in nodes if node in behind | again], logits)
    return _Cut(classifier, first, second)


def _followers(nodes: Iterable[Node], start: set[Node]) -> set[Node]:
    """Return ``start`` and every node that depends on it; ``nodes`` are in the order of execution."""
    found = set(start)
    for node in nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _part(
    module: nn.Module, given: Sequence[Node], nodes: Sequence[Node], result: Node | Sequence[Node]
) -> GraphModule:
    """Return the part of a graph from the values of ``given`` over ``nodes`` to those of ``result``."""
    graph = Graph()
    copies = {node: graph.placeholder(f"given_{index}") for index, node in enumerate(given)}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[result] if isinstance(result, Node) else tuple(copies[node] for node in result))
    return GraphModule(module, graph)


def _agrees(halves: Halves, images: Tensor) -> bool:
    """Whether the halves give the network's own logits when rows are repeated between them."""
    rows = torch.tensor([1, 0, 1], device=images.device)
    expected = halves.classifier.logits(images[rows])
    values = halves.before(images)
    try:
        found = halves.behind(*(value[rows] for value in values))
    except (IndexError, RuntimeError):  # shapes that do not fit
        return False
    tolerance = 1e-2 * float(expected.abs().amax())  # a wrong row or value shows; half precision may pass
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=tolerance)


class _Replaced(Halves):
    """The whole network, with the output of the layer's last call replaced; the inputs are carried between."""

    def __init__(self, classifier: FrozenClassifier, layer: str, images: Tensor) -> None:
        super().__init__(classifier)
        (self.layer,) = classifier.with_layers((layer,)).layers  # checks that it exists and is reached
        self.calls = 0

        def count(_module: nn.Module, _args: object, _output: Tensor) -> None:
            self.calls += 1

        self._run(count, classifier.normalise(images))

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the whole network."""
        with torch.no_grad():
            inputs = self.classifier.normalise(images)
            return hooked_outputs(self.classifier.module, (self.layer,), inputs)[0], inputs

    def behind(self, *values: Tensor) -> Tensor:
        """Run the whole network again."""
        output, inputs = values
        left = self.calls

        def replace(_module: nn.Module, _args: object, _output: Tensor) -> Tensor | None:
            nonlocal left
            left -= 1
            return None if left else output.clone()  # see `_Cut.behind`

        return self._run(replace, inputs)

    def _run(self, hook: Callable[..., Tensor | None], inputs: Tensor) -> Tensor:
        handle = self.classifier.module.get_submodule(self.layer).register_forward_hook(hook)
        try:
            logits: Tensor = self.classifier.module(inputs)
        finally:
            handle.remove()
        return logits
