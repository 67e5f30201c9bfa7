"""Run a library on a network, then restore the network and all random states."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn

from tame.classifier.blocks.transformer import exact_graph
from tame.classifier.locks import network_lock
from tame.explainers.controls import seed_of
from tame.utils.threads import PROCESS, random_state


@contextmanager
def isolated(module: nn.Module, image: Tensor) -> Iterator[None]:
    """Run the block with gradients, in full precision, without in-place activations and with seeded generators.

    The generators are seeded by the image, so that its map does not depend on the other images of a batch. After the
    block, also after an exception, the network, the grad mode and the random states are as before. One thread at a time
    runs such a block, since generators and warnings belong to the whole process.

    Args:
        module: The network.
        image: (C, H, W).
    """
    with (
        network_lock(module),
        PROCESS,
        _random_states(image),
        unchanged(module),
        exact_graph(image.device),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for part in module.modules():
            if getattr(part, "inplace", False):
                part.inplace = False  # type: ignore[assignment] # an attribute; hooks need values that are not overwritten
        yield


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Restore the network after the block: weights, ``requires_grad``, gradients, modes, hooks, submodules.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
        >>> with unchanged(network):
        ...     network[1] = network.train().requires_grad_(False)[0]
        >>> network[1], network[0].weight.requires_grad
        (ReLU(inplace=True), True)
    """
    # the attributes of each module, and the tables among them: submodules, parameters, hooks
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in module.modules():
        attributes = vars(part)
        tables += [(table, table.copy()) for table in attributes.values() if isinstance(table, dict)]
        tables.append((attributes, attributes.copy()))
    tensors = [
        (tensor, tensor.data, tensor.requires_grad, tensor.grad)
        for tensor in chain(module.parameters(), module.buffers())
        if tensor.is_leaf
    ]
    try:
        yield
    finally:
        for table, content in tables:
            for key in table.keys() - content.keys():
                del table[key]
            table.update(content)
        for tensor, data, requires_grad, gradient in tensors:
            tensor.data = data
            tensor.requires_grad_(requires_grad)
            tensor.grad = gradient


@contextmanager
def _random_states(image: Tensor) -> Iterator[None]:
    """Seed every generator by the image; restore them after the block."""
    seed = seed_of(image)
    ours, theirs = random.getstate(), np.random.get_state()
    devices = [image.device] if image.device.type == "cuda" else []
    try:
        with random_state(seed, devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)
