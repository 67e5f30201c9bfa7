"""List the layers of any classifier without downloading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tame.backbones.load import find_spec, load_network
from tame.classifier import FrozenClassifier
from tame.classifier.locks import network_lock
from tame.classifier.probing.infer_spec import infer_spec
from tame.classifier.probing.layer_table import LayerTable, layer_table
from tame.classifier.probing.overrides import overrides_of
from tame.classifier.shared import own_buffers, sharing_copy
from tame.utils.checks import InputError


def inspect_classifier(
    model: str | Path | nn.Module | FrozenClassifier,
    *,
    weights: str | Path | None = "random",
    all: bool = False,  # noqa: A002 - the word of the command line
    **described: Any,
) -> LayerTable:
    """List the layers of a classifier, and propose feature layers.

    Args:
        model: The classifier: the name of a backbone or anything else that `tame.load_classifier` takes, a trained
            network, or a frozen classifier.
        weights: Weights of a backbone that is loaded by name, as in `tame.load_classifier`; random weights suffice to
            list layers and need no download.
        all: Show all layers, also those nested in blocks and those without maps or tokens.
        described: What describes the classifier in `tame.load_classifier`: num_classes, class_names, input_size, mean
            and std.

    Returns:
        The layers. Its ``str`` is a table with the proposed feature layers below it, ``frame()`` a DataFrame.

    Raises:
        InputError: If the classifier cannot be built or rejects its input.

    Example:
        >>> inspect_classifier("resnet18").proposed
        ('layer2', 'layer3', 'layer4')
    """
    if isinstance(model, FrozenClassifier):
        if described:
            raise InputError(f"expected a frozen classifier as it is, got {', '.join(described)} beside it")
        with network_lock(model.module):
            return layer_table(model.spec, model.module, all)
    overrides = overrides_of(**described)
    if isinstance(model, nn.Module):
        own = sharing_copy(model)
        with own_buffers(own):
            return layer_table(infer_spec(type(model).__name__, lambda: own, overrides), own, all)
    spec, module, _ = load_network(find_spec(model, overrides), weights)
    return layer_table(spec, module, all)
