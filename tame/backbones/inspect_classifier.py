"""List the layers of any classifier without downloading its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tame.backbones.load import find_spec, load_network
from tame.classifier import FrozenClassifier
from tame.classifier.probing.infer_spec import infer_spec
from tame.classifier.probing.layer_table import LayerTable, layer_table
from tame.classifier.probing.overrides import overrides_of
from tame.classifier.shared import buffers_restored, sharing_copy


def inspect_classifier(
    model: str | Path | nn.Module | FrozenClassifier,
    *,
    weights: str | Path | None = "random",
    num_classes: int | None = None,
    class_names: str | Path | Sequence[str] | None = None,
    input_size: str | int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    all: bool = False,  # noqa: A002 - the word of the command line
) -> LayerTable:
    """List the layers of a classifier, and propose feature layers.

    Args:
        model: The classifier: the name of a backbone or anything else that `tame.load_classifier` takes, a trained
            network, or a frozen classifier.
        weights: Weights of a backbone that is loaded by name, as in `tame.load_classifier`; random weights suffice to
            list layers and need no download.
        num_classes: Number of classes; default: the backbone's.
        class_names: Class names in index order, a file with one per line, or "imagenet"; default: the backbone's.
        input_size: Side of the classifier's input in pixels, or HEIGHTxWIDTH; default: from the backbone's
            preprocessing.
        mean: Mean per channel of images in [0, 1]; default: from the backbone's preprocessing.
        std: Standard deviation per channel of images in [0, 1]; default: from the backbone's preprocessing.
        all: Show all layers, also those nested in blocks and those without maps or tokens.

    Returns:
        The layers. Its ``str`` is a table with the proposed feature layers below it, ``frame()`` a DataFrame.

    Raises:
        InputError: If the classifier cannot be built or rejects its input.

    Example:
        >>> inspect_classifier("resnet18").proposed
        ('layer2', 'layer3', 'layer4')
    """
    if isinstance(model, FrozenClassifier):
        return layer_table(model.spec, model.module, all)
    overrides = overrides_of(num_classes, class_names, input_size, mean, std)
    if isinstance(model, nn.Module):
        own = sharing_copy(model)
        with buffers_restored(model, own):
            return layer_table(infer_spec(type(model).__name__, lambda: own, overrides), own, all)
    spec, module, _ = load_network(find_spec(model, overrides), weights)
    return layer_table(spec, module, all)
