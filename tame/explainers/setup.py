"""From options to a classifier on its device and an explainer for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tame.backbones import BackboneSpec, FrozenClassifier, Given, find_spec, load_backbone
from tame.checkpoint import checkpoint_hash, layers_of, own_backbone, shipped_checkpoint, spec_for
from tame.devices import resolve_device
from tame.explainers.base import EXPLAINERS, build_explainer
from tame.explainers.learned import LEARNED
from tame.options import CommonOptions, MethodOptions
from tame.presets import PRESETS
from tame.types import Explainer

logger = logging.getLogger(__name__)


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
    explainer = build_explainer(classifier, replace(method, preset=common.preset))
    return Setup(classifier, explainer, provenance_of(common, method))


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
        tapped = _tapped(classifier, common, method)
        explainer = build_explainer(tapped, replace(method, preset=common.preset))
        setups.append(Setup(tapped, explainer, provenance_of(common, method)))
    return setups


def _tapped(classifier: FrozenClassifier, common: CommonOptions, method: MethodOptions) -> FrozenClassifier:
    """Return the classifier with the layers, and the gate of its tokens, of the checkpoint in use, if any."""
    layers, checkpoint = layers_for(common, method), _checkpoint(common, method)
    if not checkpoint or isinstance(layers, str):
        return classifier
    spec = spec_for(checkpoint, classifier.spec)
    if (tuple(layers), spec) == (classifier.layers, classifier.spec):
        return classifier
    return FrozenClassifier(spec, classifier.module, layers, classifier.weights).to(classifier.mean.device)


def spec_of(common: CommonOptions) -> BackboneSpec:
    """Return the spec of the backbone that the options name.

    Raises:
        InputError: For a backbone that does not exist, or contradicts the options.
    """
    return find_spec(common.backbone, Given.by(common))


def load_classifier(common: CommonOptions, method: MethodOptions) -> FrozenClassifier:
    """Load the backbone with the layers of `layers_for`, and the weights of the checkpoint that brings its own.

    Weights that the options name are stronger than those.

    Raises:
        InputError: For a backbone, weights or layers that cannot be used.
    """
    layers, spec, weights = layers_for(common, method), spec_of(common), common.weights
    if checkpoint := _checkpoint(common, method):
        spec = spec_for(checkpoint, spec)
        if not weights and (own := own_backbone(checkpoint)):
            logger.warning("The weights of %s are those that came with %s.", spec.name, checkpoint)
            weights = str(checkpoint)
            spec = replace(spec, weights={weights: lambda: own})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(common.seed)  # random weights are the same in all processes, and when a run continues
        return load_backbone(spec, weights, layers)


def layers_for(common: CommonOptions, method: MethodOptions) -> str | list[str]:
    """Return the layers asked for, else those of the checkpoint in use, else the preset's tap set.

    Raises:
        InputError: For a checkpoint of another backbone.
    """
    checkpoint = _checkpoint(common, method)
    if common.layers or not checkpoint:
        return common.layers or PRESETS.get(common.preset).layers
    return layers_of(checkpoint, spec_for(checkpoint, spec_of(common)))


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
    return method.checkpoint or (shipped_checkpoint(spec_of(common).name) if method.method == "ttame" else None)
