"""From backbones and methods as users name them to explainers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from tame.backbones import find_spec
from tame.checkpoints.classifier import as_classifier, load_classifier, recorded_loading
from tame.checkpoints.native import read_metadata, shipped_checkpoint
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.probing.infer_spec import resolve_layers
from tame.classifier.probing.overrides import DESCRIPTION, overrides_of
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import MethodName, build_explainer, resolve_arguments
from tame.explainers.learned import method_of
from tame.explainers.registry import check_arguments, check_names
from tame.explainers.user_code import ExplainFunction, function_name
from tame.inference.batch import NamedExplainer
from tame.presets import Preset
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device

logger = logging.getLogger("tame")

Classifier: TypeAlias = FrozenClassifier | nn.Module | str | Path
"""A classifier, or what `tame.load_classifier` takes as ``backbone``."""

_FALLBACK = "gradcam"  # method of backbones without a trained explainer


def check_loading(loading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_classifier` that are set.

    Raises:
        InputError: For an argument that it does not take.
    """
    known = [name for name in inspect.signature(load_classifier).parameters if name not in ("backbone", "checkpoint")]
    check_names("load_classifier", known, loading)
    return {name: value for name, value in loading.items() if value is not None}


@dataclass(frozen=True)
class Backbone:
    """A classifier that can be described before it is loaded.

    Attributes:
        spec: Its description.
        source: What it is loaded from, or the classifier itself.
        loading: Arguments of `load_classifier` that are set.
    """

    spec: BackboneSpec
    source: FrozenClassifier | str | Path
    loading: Mapping[str, Any]

    @classmethod
    def of(
        cls, classifier: Classifier | None, loading: Mapping[str, Any], checkpoint: str | Path | None = None
    ) -> Backbone:
        """Describe a classifier; what a checkpoint records of it is the default, see `recorded_loading`.

        Raises:
            InputError: For an unknown backbone, or arguments of loading together with a classifier that is loaded.
        """
        if classifier is None or isinstance(classifier, str | Path):
            classifier, loading = recorded_loading(checkpoint, classifier, loading)
            overrides = overrides_of(**{name: loading.get(name) for name in DESCRIPTION})
            return cls(find_spec(classifier, overrides), classifier, loading)
        if refused := sorted(loading.keys() - {"layers", "device"}):
            raise InputError(
                f"expected {', '.join(refused)} only for a classifier that is loaded by name, got a "
                f"{type(classifier).__name__}: describe a network with FrozenClassifier.from_module(network, ...)"
            )
        frozen = as_classifier(classifier)
        if layers := loading.get("layers"):
            frozen = frozen.with_layers(resolve_layers(frozen.spec, frozen.module, layers))
        if (device := loading.get("device", "auto")) != "auto":
            frozen = frozen.to(resolve_device(device))
        return cls(frozen.spec, frozen, loading)

    def load(self, checkpoint: str | Path | None) -> FrozenClassifier:
        """Return the classifier, with the layers and weights of a checkpoint where none are named."""
        if isinstance(self.source, FrozenClassifier):
            return self.source
        return load_classifier(self.source, checkpoint=checkpoint, **self.loading)


def default_method(backbone: Backbone, checkpoint: str | Path | None) -> str:
    """Return the method that is used where none is named.

    Returns:
        The method of the checkpoint, T-TAME where a trained explainer is shipped, otherwise Grad-CAM, with a log
        message.

    Raises:
        InputError: If there is no such checkpoint.
    """
    if checkpoint:
        return method_of(read_metadata(checkpoint)["attention"])
    name = backbone.spec.name
    if shipped_checkpoint(name):
        return "ttame"
    how = 'tame.train(classifier, data="FOLDER", out="RUN")'
    if not isinstance(backbone.source, FrozenClassifier):
        how = f"`tame train --backbone {backbone.source} --data FOLDER --out RUN` or tame.train in Python"
    logger.warning(
        "No trained explainer is shipped for %s: explaining with Grad-CAM. Train T-TAME with %s, "
        "and give the folder RUN as the checkpoint.",
        name,
        how,
    )
    return _FALLBACK


@dataclass(frozen=True)
class MethodRequest:
    """A method to build for a backbone.

    Attributes:
        method: As it is written, or a function.
        name: Of the method in files.
        checkpoint: Trained attention mechanism; None for methods without one.
        learned: Whether the method explains by a trained attention mechanism.
        arguments: The method's own arguments.
    """

    method: str | ExplainFunction
    name: str
    checkpoint: str | Path | None
    learned: bool
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        method: str | ExplainFunction,
        spec: BackboneSpec,
        preset: Preset,
        checkpoint: str | Path | None,
        arguments: Mapping[str, Any],
    ) -> MethodRequest:
        """Check a method and its arguments, before anything is loaded.

        Args:
            method: A name, which may carry its own checkpoint (``ttame@FOLDER``), or a function.
            spec: Of the backbone.
            preset: Sets arguments that are not given.
            checkpoint: Used by a trained method without its own; default: the shipped one.
            arguments: The method's own arguments.

        Raises:
            InputError: For an unknown method, or an argument that it does not take.
        """
        if not isinstance(method, str):
            if not callable(method):
                raise InputError(f"expected a method (a name, or a function), got {type(method).__name__}")
            return cls(method, function_name(method), None, False, arguments)
        written = MethodName.of(method)
        arguments = resolve_arguments(written, preset, checkpoint, arguments)
        if known := written.registered:
            check_arguments(written.name, known, arguments)
        if not written.learned:
            return cls(method, method, None, False, arguments)
        shipped = shipped_checkpoint(spec.name) if written.name == "ttame" else None
        path = arguments.get("checkpoint") or shipped
        return cls(method, method, path, True, arguments | {"checkpoint": path})

    def build(self, classifier: FrozenClassifier) -> CheckedExplainer:
        """Build the explainer."""
        return build_explainer(classifier, self.method, **self.arguments)


def build_explainers(backbone: Backbone, requests: Sequence[MethodRequest], preset: Preset) -> list[NamedExplainer]:
    """Load a backbone once and build all methods for it.

    The feature layers are those of the first trained method's checkpoint, otherwise those of the preset, unless the
    user named layers.

    Args:
        backbone: The classifier.
        requests: The methods.
        preset: Names the layer set.

    Raises:
        InputError: For a classifier that cannot be loaded, or that a method cannot explain.
    """
    learned = next((request for request in requests if request.learned), None)
    classifier = backbone.load(learned.checkpoint if learned else None)
    trained = learned.build(classifier) if learned else None
    classifier = trained.classifier if trained else classifier.with_layer_set(preset.layers)
    explainers = [trained if trained and request is learned else request.build(classifier) for request in requests]
    return [
        NamedExplainer(explainer.classifier, explainer, request.name, preset.name)
        for request, explainer in zip(requests, explainers, strict=True)
    ]


def check_checkpoint_is_used(checkpoint: object, requests: Sequence[MethodRequest]) -> None:
    """Check that a checkpoint is given only where a method reads one.

    Raises:
        InputError: If no method does.
    """
    if checkpoint and not any(request.learned for request in requests):
        names = ", ".join(request.name for request in requests)
        raise InputError(f"expected a trained method such as ttame for the checkpoint {checkpoint}, got {names}")
