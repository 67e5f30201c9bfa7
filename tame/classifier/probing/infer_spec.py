"""Complete the specification of a classifier: what the user does not say is inferred from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import Tensor, nn

from tame.classifier.outputs import Output, WithOutput, float_type, read_logits, resolve_output
from tame.classifier.probabilities import infer_score
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.probing.proposal import find_tokens, propose_layers
from tame.classifier.spec import BackboneSpec, Preprocessing
from tame.types import MaskingKind, ScoreKind
from tame.utils.checks import InputError
from tame.utils.imports import running
from tame.utils.threads import random_state

IMAGENET_PREPROCESSING = Preprocessing(256, 224)
"""Usual preprocessing of ImageNet classifiers: resize to 256 pixels, crop 224 x 224."""


def infer_spec(
    name: str,
    build: Callable[[], nn.Module],
    overrides: SpecOverrides,
    preprocessing: Preprocessing = IMAGENET_PREPROCESSING,
    weights: Mapping[str, Callable[[], Mapping[str, Tensor] | None]] | None = None,
) -> BackboneSpec:
    """Infer the spec of a network from one forward pass: number of classes and token layout, unless overridden.

    Args:
        name: Name of the classifier.
        build: Function that returns the network; it is called once here.
        overrides: Properties that are not inferred.
        preprocessing: Preprocessing where ``overrides`` sets none.
        weights: Published weights by name, see `BackboneSpec`.

    Raises:
        InputError: If the network cannot be built, rejects its input, or contradicts the overrides.
    """
    preprocessing = override_preprocessing(preprocessing, overrides)
    module = _built(name, build).eval()
    logits, output = read_logits(module, preprocessing.shape, _output(overrides), name)
    found = 1 if logits.ndim == 1 else logits.shape[1]
    score = overrides.score or _infer_score(name, module, preprocessing, logits, output)
    single = found == 1 and overrides.score != "sigmoid"  # one logit separates two classes
    count = overrides.count or (2 if single else found)
    tokens = overrides.tokens or find_tokens(module, preprocessing.shape)
    spec = BackboneSpec(
        name=name,
        build=build,
        preprocessing=preprocessing,
        class_names=tuple(f"class {index}" for index in range(count)),
        masking="vit" if tokens else "cnn",
        tokens=tokens,
        weights=weights or {},
        output=output,
        score=_one_of("score", score, ScoreKind),
    )
    return with_overrides(spec, overrides)


def _infer_score(
    name: str, module: nn.Module, preprocessing: Preprocessing, logits: Tensor, output: Output | None
) -> ScoreKind:
    if logits.ndim > 2:
        return "softmax"
    network = WithOutput(module, [output]) if output else module
    return infer_score(name, network, preprocessing.shape, logits, float_type(module))


def _built(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without changing the global random state."""
    with running(name, "could not be built"), random_state():
        module = build()
    if not isinstance(module, nn.Module):
        raise InputError(f"expected {name} to return an nn.Module, got {type(module).__name__}")
    return module


def with_overrides(spec: BackboneSpec, overrides: SpecOverrides) -> BackboneSpec:
    """Return a spec in which overrides replace the spec's own values.

    Raises:
        InputError: If the number of class names is not the number of classes, or for an unknown masking, score or
            interpolation.
    """
    changes: dict[str, Any] = {"preprocessing": override_preprocessing(spec.preprocessing, overrides)}
    if changes["preprocessing"] != spec.preprocessing:
        changes["weights_preprocessing"] = {}
    if overrides.class_names:
        if len(overrides.class_names) != spec.num_classes:
            raise InputError(
                f"expected {spec.num_classes} class names for {spec.name}, got {len(overrides.class_names)}"
            )
        changes["class_names"] = overrides.class_names
    if overrides.layers:
        changes["layers"] = dict.fromkeys(("paper", "released", "proposed"), overrides.layers)
    if overrides.masking:
        changes["masking"] = _one_of("masking", overrides.masking, MaskingKind)
    if overrides.score:
        changes["score"] = _one_of("score", overrides.score, ScoreKind)
    if overrides.output:
        changes["output"] = _output(overrides)
    changes |= {key: value for key, value in overrides.known().items() if key in ("cam_layer", "tokens")}
    return replace(spec, **changes)


def no_published_weights(name: str, num_classes: int) -> dict[str, Callable[[], Mapping[str, Tensor]]]:
    """Return the ``weights`` of a spec without published weights: loading them raises an error that says so."""

    def refuse() -> Mapping[str, Tensor]:
        raise InputError(
            f"no weights are published for {name} with {num_classes} classes: choose a file of weights, or random ones "
            '(weights "random")'
        )

    return {"published": refuse}


def override_preprocessing(preprocessing: Preprocessing, overrides: SpecOverrides) -> Preprocessing:
    """Return preprocessing in which overrides replace its own values.

    If the input size is overridden and the resize is not, a square input keeps the ratio of resize to crop; for other
    shapes the whole image is resized to the input size, without regard to its aspect ratio.
    """
    resize, crop = preprocessing.resize, preprocessing.crop
    if overrides.input_size:
        height, width = overrides.input_size
        crop = height if height == width else overrides.input_size
        if height == width and isinstance(resize, int):
            resize = round(height * resize / preprocessing.size[0])
        else:
            resize = overrides.input_size
    return Preprocessing(
        resize=overrides.resize or resize,
        crop=crop,
        interpolation=overrides.interpolation or preprocessing.interpolation,
        mean=overrides.mean or preprocessing.mean,
        std=overrides.std or preprocessing.std,
    )


def resolve_layers(spec: BackboneSpec, module: nn.Module, layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return the module names of feature layers.

    Args:
        spec: Specification of the classifier.
        module: The classifier, in eval mode.
        layers: Name of a layer set (``paper``, ``released``, ``proposed``; proposed by `propose_layers` if the spec has
            no such set), module names separated by commas, or a sequence of module names.
    """
    if isinstance(layers, str):
        if layers in spec.layers:
            return spec.layers[layers]
        if layers in ("proposed", "paper", "released"):
            return propose_layers(spec, module)
        layers = [layer.strip() for layer in layers.split(",") if layer.strip()]
    return tuple(layers)


def _output(overrides: SpecOverrides) -> Output | None:
    return resolve_output(overrides.output) if isinstance(overrides.output, str) else overrides.output


def _one_of(name: str, value: str, known: Any) -> Any:
    if value not in get_args(known):
        raise InputError(f"expected {name} {' or '.join(get_args(known))}, got {value!r}")
    return value
