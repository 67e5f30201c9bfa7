"""A classifier cut in two at a layer, so that what lies before the layer runs once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from tame.backbones.frozen import FrozenClassifier
from tame.backbones.taps import build_extractor, hooked_outputs
from tame.checks import InputError

logger = logging.getLogger("tame")

PROBES = 2
"""Random images that a cut is checked with."""


class Halves(NamedTuple):
    """What lies before a layer and what lies behind it.

    Attributes:
        before: From images (B, C, H, W) in [0, 1] to the layer's output and every earlier value that is still
            needed behind it (the skip of a residual connection), each with one row per image.
        behind: From these, in any number of rows, to the logits. It may overwrite what it is given.
    """

    before: Callable[[Tensor], tuple[Tensor, ...]]
    behind: Callable[..., Tensor]


def cut_at(classifier: FrozenClassifier, layer: str) -> Halves:
    """Cut a classifier at the output of ``layer``; ``behind(*before(images))`` are its logits.

    The traced graph is cut in two. Where that cannot be done (a value that is needed behind the layer has not one
    row per image), ``behind`` runs the whole network with the layer's output replaced: as exact, but slower; a
    line of the log says so. Neither half builds a graph of gradients.

    Args:
        classifier: The classifier.
        layer: Name of a module; the output of its last call is meant.

    Raises:
        InputError: If the layer does not exist, or the logits do not depend on it.

    Example:
        >>> from torch import nn
        >>> from tame.backbones import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> before, behind = cut_at(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> (output,) = before(torch.rand(1, 3, 4, 4))
        >>> behind(output.expand(3, -1, -1, -1)).shape
        torch.Size([3, 2])
    """
    shape = (PROBES, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean.device)
    images[0] /= 4  # so that the two images differ in more than noise
    with torch.no_grad():
        halves = _traced(classifier, layer, images)
        if not _agrees(classifier, halves, images):
            logger.warning("%s cannot be cut at %s: the whole network runs instead", classifier.spec.name, layer)
            halves = _hooked(classifier, layer, images)
    return halves


class _Tensors(Interpreter):
    """Runs a graph and remembers which nodes gave tensors."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found.add(n)
        return value


def _traced(classifier: FrozenClassifier, layer: str, images: Tensor) -> Halves:
    """Return the halves of the traced graph."""
    extractor = build_extractor(classifier.module, (layer,))
    nodes = list(extractor.graph.nodes)
    (output,) = (node for node in nodes if node.op == "output")
    tap, logits = output.args[0]["0"], output.args[0]["logits"]
    nodes.remove(output)

    inputs = _followers(nodes, {node for node in nodes if node.op == "placeholder"})
    behind = _followers(nodes, {tap}) - {tap}
    if logits not in behind:
        raise InputError(f"expected a layer that the logits of {classifier.spec.name} depend on, got {layer!r}")
    tensors = _Tensors(extractor)
    tensors.run(classifier.normalise(images))

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
    first = _part(extractor, (), [node for node in nodes[: last + 1] if node not in behind], border)
    second = _part(extractor, border, [node for node in nodes if node in behind | again], logits)

    def run_before(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return first(classifier.normalise(images))

    def run_behind(*values: Tensor) -> Tensor:
        with torch.no_grad():
            return second(*values)

    return Halves(run_before, run_behind)


def _followers(nodes: Iterable[Node], start: set[Node]) -> set[Node]:
    """Return ``start`` and every node that depends on it; ``nodes`` are in the order of execution."""
    found = set(start)
    for node in nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _part(
    extractor: GraphModule, given: Sequence[Node], nodes: Sequence[Node], result: Node | Sequence[Node]
) -> GraphModule:
    """Return the part of a graph from the values of ``given`` over ``nodes`` to those of ``result``."""
    graph = Graph()
    copies = {node: graph.placeholder(f"given_{index}") for index, node in enumerate(given)}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[result] if isinstance(result, Node) else tuple(copies[node] for node in result))
    return GraphModule(extractor, graph)


def _agrees(classifier: FrozenClassifier, halves: Halves, images: Tensor) -> bool:
    """Whether the halves give the network's own logits when rows are repeated between them."""
    rows = torch.tensor([1, 0, 1], device=images.device)
    expected = classifier.logits(images[rows])
    values = halves.before(images)
    try:
        found = halves.behind(*(value[rows] for value in values))
    except (IndexError, RuntimeError):  # shapes that do not fit
        return False
    tolerance = 1e-2 * float(expected.abs().amax())  # a wrong row or value shows; half precision may pass
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=tolerance)


def _hooked(classifier: FrozenClassifier, layer: str, images: Tensor) -> Halves:
    """Return halves of which the second runs the whole network, with the output of the layer's last call replaced."""
    module = classifier.module.get_submodule(layer)
    calls = 0

    def count(_module: nn.Module, _args: object, _output: Tensor) -> None:
        nonlocal calls
        calls += 1

    _with_hook(classifier, module, count, classifier.normalise(images))

    def before(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            inputs = classifier.normalise(images)
            return hooked_outputs(classifier.module, (layer,), inputs)[0], inputs

    def behind(output: Tensor, inputs: Tensor) -> Tensor:
        left = calls

        def replace(_module: nn.Module, _args: object, _output: Tensor) -> Tensor | None:
            nonlocal left
            left -= 1
            return None if left else output

        with torch.no_grad():
            return _with_hook(classifier, module, replace, inputs)

    return Halves(before, behind)


def _with_hook(
    classifier: FrozenClassifier, module: nn.Module, hook: Callable[..., Tensor | None], inputs: Tensor
) -> Tensor:
    handle = module.register_forward_hook(hook)
    try:
        return classifier.module(inputs)
    finally:
        handle.remove()
