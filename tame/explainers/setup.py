"""From options to a classifier on its device and an explainer for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tame.backbones import FrozenClassifier, load_backbone
from tame.checkpoint import checkpoint_hash, read_metadata, shipped_checkpoint
from tame.checks import InputError
from tame.devices import resolve_device
from tame.explainers.base import EXPLAINERS, build_explainer
from tame.explainers.learned import LEARNED
from tame.options import CommonOptions, MethodOptions
from tame.presets import PRESETS
from tame.types import Explainer


class Setup(NamedTuple):
    """A classifier on its device, an explainer of it, and where both come from as plain JSON values."""

    classifier: FrozenClassifier
    explainer: Explainer
    provenance: dict[str, Any]


def set_up(common: CommonOptions, method: MethodOptions) -> Setup:
    """Load the backbone and build the method that the options name.

    Raises:
        InputError: For anything that cannot be used.
    """
    classifier = load_classifier(common, method).to(resolve_device(common.device))
    return Setup(classifier, build_explainer(classifier, method), provenance_of(common, method))


def set_up_together(requests: Sequence[tuple[CommonOptions, MethodOptions]], device: str) -> list[Setup]:
    """Build several methods on one classifier, loaded once; a method whose checkpoint taps other layers shares it.

    Args:
        requests: What is asked for, of one backbone.
        device: Where the classifier goes.

    Raises:
        InputError: For anything that cannot be used; unknown methods before anything is loaded.
    """
    for _, method in requests:
        if ":" not in method.method:  # else a function of the user's own
            EXPLAINERS.get(method.method)
    first = next((one for one in requests if one[1].method in LEARNED), requests[0])  # a checkpoint has layers
    classifier = load_classifier(*first).to(device)
    setups = []
    for common, method in requests:
        layers = layers_for(common, method)
        other = isinstance(layers, list) and tuple(layers) != classifier.layers  # of another checkpoint
        tapped = classifier.with_layers(layers) if other else classifier
        setups.append(Setup(tapped, build_explainer(tapped, method), provenance_of(common, method)))
    return setups


def load_classifier(common: CommonOptions, method: MethodOptions) -> FrozenClassifier:
    """Load the backbone with the layers of `layers_for`.

    Raises:
        InputError: For a backbone, weights or layers that cannot be used.
    """
    layers = layers_for(common, method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(common.seed)  # random weights are the same in all processes, and when a run continues
        return load_backbone(common.backbone, common.weights, layers)


def layers_for(common: CommonOptions, method: MethodOptions) -> str | list[str]:
    """Return the layers asked for, else those of the checkpoint in use, else the preset's tap set.

    Raises:
        InputError: For a checkpoint of another backbone.
    """
    checkpoint = _checkpoint(common, method)
    if common.layers or not checkpoint:
        return common.layers or PRESETS.get(common.preset).layers
    metadata = read_metadata(checkpoint)
    if metadata["backbone"] != common.backbone:  # its layers would not be found, which says less
        raise InputError(
            f"the checkpoint {checkpoint} was trained for backbone {metadata['backbone']}, not {common.backbone}"
        )
    layers: list[str] = metadata["layers"]
    return layers


def provenance_of(common: CommonOptions, method: MethodOptions) -> dict[str, Any]:
    """Return what the maps depend on beside the classifier, as plain JSON values."""
    provenance: dict[str, Any] = {"method": method.method, "preset": common.preset}
    if checkpoint := _checkpoint(common, method):
        provenance |= {"checkpoint": str(checkpoint), "checkpoint_sha256": checkpoint_hash(checkpoint)}
    if method.cam_layer:
        provenance |= {"cam_layer": method.cam_layer}
    if method.rise_masks and method.method == "rise":
        provenance |= {"rise_masks": method.rise_masks}
    return provenance


def _checkpoint(common: CommonOptions, method: MethodOptions) -> str | Path | None:
    """Return the checkpoint that the method uses, if it uses any."""
    if method.method not in LEARNED:
        return None
    return method.checkpoint or (shipped_checkpoint(common.backbone) if method.method == "ttame" else None)
