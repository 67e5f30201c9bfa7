"""Load a classifier by name, with the layers and weights of a checkpoint of an attention mechanism."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from tame.backbones import find_spec, is_code, load_backbone
from tame.checkpoints.native import layers_of, own_backbone, read_metadata, spec_for
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.probing.overrides import DESCRIPTION, overrides_of
from tame.types import DeviceName
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device
from tame.utils.imports import absolute
from tame.utils.limits import check_numbers

logger = logging.getLogger("tame")

DEFAULT_BACKBONE = "efficientnet_lite0"
"""Name of the default classifier, whose weights are installed with a package."""


def load_classifier(
    backbone: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    num_classes: int | None = None,
    class_names: str | Path | Sequence[str] | None = None,
    input_size: str | int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    checkpoint: str | Path | None = None,
    device: DeviceName = "auto",
    seed: int = 0,
) -> FrozenClassifier:
    """Load a trained classifier and freeze it.

    Args:
        backbone: Name of a classifier (tame list backbones), timm:NAME, package.module:function or file.py:function
            that returns an nn.Module, or a spec file (.toml, .yaml, .json); default: that of the checkpoint, otherwise
            efficientnet_lite0.
        weights: Name of published weights, path of a weights file (read without executing code), or "random"; default:
            those of the spec file or checkpoint, otherwise the first published ones.
        layers: Feature layers: a layer set (paper, released, proposed) or module names; default: those of the
            checkpoint, otherwise those of the preset.
        num_classes: Number of classes; default: the backbone's.
        class_names: Class names in index order, a file with one per line, or "imagenet"; default: the backbone's.
        input_size: Side of the classifier's input in pixels, or HEIGHTxWIDTH; default: from the backbone's
            preprocessing.
        mean: Mean per channel of images in [0, 1]; default: from the backbone's preprocessing.
        std: Standard deviation per channel of images in [0, 1]; default: from the backbone's preprocessing.
        checkpoint: Checkpoint of an attention mechanism, for which the classifier is loaded as it was for training:
            what the checkpoint records of it is the default of all other arguments.
        device: auto (CUDA where there is one, otherwise the CPU), cpu, cuda or mps.
        seed: Seed of random weights.

    Returns:
        The classifier, in eval mode and without gradients, on its device.

    Raises:
        InputError: For a backbone, weights, layers, checkpoint or device that cannot be used.

    Example:
        >>> classifier = load_classifier("resnet18", weights="random", num_classes=3, device="cpu")
        >>> classifier.spec.num_classes, classifier.layers
        (3, ('layer2', 'layer3', 'layer4'))
    """
    check_numbers(num_classes=num_classes, seed=seed)
    target = resolve_device(device)
    arguments: dict[str, Any] = {
        "weights": None if weights is None else str(weights),
        "num_classes": num_classes,
        "class_names": class_names if class_names is None or isinstance(class_names, str) else _plain(class_names),
        "input_size": input_size if input_size is None or isinstance(input_size, str | int) else list(input_size),
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
    }
    backbone, arguments = recorded_loading(checkpoint, backbone, arguments)
    spec = find_spec(backbone, overrides_of(**{name: arguments.get(name) for name in DESCRIPTION}))
    chosen: str | Path | None = arguments.get("weights")
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    if checkpoint is not None:
        spec = spec_for(checkpoint, spec)
        if weights is None and (own := own_backbone(checkpoint)):
            logger.warning("The weights of %s are loaded from the checkpoint %s.", spec.name, checkpoint)
            chosen = str(checkpoint)
            arguments.pop("weights", None)
            spec = replace(spec, weights={chosen: lambda: own})
    # with a seed, random weights are the same in all processes, and when a run is resumed
    classifier = load_backbone(spec, chosen, named or (layers_of(checkpoint, spec) if checkpoint else None), seed=seed)
    classifier.layers_named = layers is not None
    source = {"backbone": str(backbone), "weights": None, "layers": named} | arguments
    classifier.source = {name: value for name, value in source.items() if value is not None}
    return classifier.to(target)


def recorded_loading(
    checkpoint: str | Path | None, backbone: str | Path | None, arguments: Mapping[str, Any]
) -> tuple[str | Path, dict[str, Any]]:
    """Return a backbone, and the arguments that load it, with those that a checkpoint records as defaults.

    Args:
        checkpoint: Checkpoint of an attention mechanism; None: nothing is recorded.
        backbone: As the user named it; None: that of the checkpoint, otherwise the default one. The arguments of a
            checkpoint for another one are not used.
        arguments: Of `load_classifier`; those that are None are not set.

    Raises:
        InputError: If the classifier is built by code that the user did not name: a checkpoint runs no code.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    metadata = {} if checkpoint is None else read_metadata(checkpoint)
    recorded = dict(metadata.get("classifier") or {})
    own = recorded.pop("backbone", None)
    if own is None:
        return backbone or DEFAULT_BACKBONE, given
    if backbone is None and is_code(own):
        raise InputError(
            f"the checkpoint {checkpoint} is for a classifier that is built by code, {own}: name this code as the "
            "backbone to run it"
        )
    named = str(backbone or own)
    if absolute(named) != own and (Path(named).name if is_code(named) else named) != metadata["backbone"]:
        return named, given
    return named, {name: value for name, value in recorded.items() if name in (*DESCRIPTION, "weights")} | given


def as_classifier(
    classifier: FrozenClassifier | nn.Module | str | Path, device: DeviceName = "auto"
) -> FrozenClassifier:
    """Convert a classifier of any kind to a frozen classifier.

    Args:
        classifier: A frozen classifier, which is returned unchanged; a trained network, which is wrapped by
            `FrozenClassifier.from_module`; or the name of a backbone, see `load_classifier`.
        device: Device of a classifier that is loaded by name.

    Raises:
        InputError: For any other value, or a classifier that cannot be loaded.
    """
    if isinstance(classifier, FrozenClassifier):
        return classifier
    if isinstance(classifier, nn.Module):
        return FrozenClassifier.from_module(classifier)
    if isinstance(classifier, str | Path):
        return load_classifier(classifier, device=device)
    raise InputError(
        f"expected a classifier (a name, a network or a FrozenClassifier), got {type(classifier).__name__}"
    )


def checkpoint_spec(path: str | Path, spec: BackboneSpec) -> tuple[BackboneSpec, tuple[str, ...]]:
    """Return the spec with the token gate that a checkpoint needs, and the checkpoint's feature layers."""
    spec = spec_for(path, spec)
    return spec, tuple(layers_of(path, spec))


def checkpoints_by_backbone(paths: Sequence[str | Path], backbones: Sequence[str]) -> dict[str, str | Path]:
    """Return checkpoints by the name of the backbone that each was trained for.

    Args:
        paths: Checkpoints.
        backbones: Names of the backbones.

    Raises:
        InputError: If a checkpoint does not name its backbone or is for none of these, or two are for the same one.
    """
    found: dict[str, str | Path] = {}
    for path in paths:
        if not (backbone := read_metadata(path)["backbone"]):
            raise InputError(f"the checkpoint {path} does not name its backbone: choose a single backbone with it")
        if backbone not in backbones:
            raise InputError(f"the checkpoint {path} was trained for backbone {backbone}, not {' or '.join(backbones)}")
        if backbone in found:
            raise InputError(f"expected one checkpoint for backbone {backbone}, got {found[backbone]} and {path}")
        found[backbone] = path
    return found


def _plain(names: Path | Sequence[str]) -> str | list[str]:
    return str(names) if isinstance(names, Path) else list(names)
