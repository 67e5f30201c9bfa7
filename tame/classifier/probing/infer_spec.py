"""From a network and what is known of it to a complete spec: the rest is inferred from one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tame.classifier.outputs import Output, read_logits, resolve_output
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.probing.proposal import find_tokens, propose_layers
from tame.classifier.spec import BackboneSpec, Preprocessing
from tame.types import MaskingKind, ScoreKind
from tame.utils.checks import InputError

USUAL = Preprocessing(256, 224)
"""ImageNet's."""


def infer_spec(
    name: str,
    build: Callable[[], nn.Module],
    overrides: SpecOverrides,
    usual: Preprocessing = USUAL,
    weights: Mapping[str, Callable[[], Mapping[str, Tensor] | None]] | None = None,
) -> BackboneSpec:
    """Infer the spec of a network from one pass: number of classes and layout of tokens, unless the overrides say them.

    Args:
        name: What the classifier is called.
        build: Returns the network; it is called once here.
        overrides: What is known of it.
        usual: Preprocessing, as far as it is not overrides.
        weights: Its published weights.

    Raises:
        InputError: If the network refuses its input, or contradicts what is overrides.
    """
    preprocessing = adapted(usual, overrides)
    module = _built(name, build).eval()
    logits, output = read_logits(module, preprocessing.shape, _output(overrides))
    found = 1 if logits.ndim == 1 else logits.shape[1]
    single = found == 1 and overrides.score != "sigmoid"  # one logit tells two classes apart
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
        score=_one_of("score", overrides.score or "softmax", ScoreKind),
    )
    return with_overrides(spec, overrides)


def _built(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network, moving no random state."""
    try:
        with torch.random.fork_rng(devices=[]):
            module = build()
    except InputError:
        raise
    except Exception as error:  # a user's function, with a user's arguments
        raise InputError(f"{name} could not be built: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"expected {name} to give an nn.Module, got {type(module).__name__}")
    return module


def with_overrides(spec: BackboneSpec, overrides: SpecOverrides) -> BackboneSpec:
    """Return a spec with the overrides in place of its own values.

    Raises:
        InputError: For another number of class names than of classes, or a word that is not known.
    """
    changes: dict[str, Any] = {"preprocessing": adapted(spec.preprocessing, overrides)}
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
    changes |= {word: value for word, value in overrides.known().items() if word in ("cam_layer", "tokens")}
    return replace(spec, **changes)


def unpublished(name: str, num_classes: int) -> dict[str, Callable[[], Mapping[str, Tensor]]]:
    """Return the weights of a classifier that has none: asking for them says so."""

    def refuse() -> Mapping[str, Tensor]:
        raise InputError(
            f"no weights are published for {name} with {num_classes} classes: give --weights FILE, or --weights random"
        )

    return {"published": refuse}


def adapted(usual: Preprocessing, overrides: SpecOverrides) -> Preprocessing:
    """Return preprocessing with the overrides in place of its own values.

    Where the input's size is given and the resize is not, a square keeps the usual proportion of the two; any other
    shape shows the whole photograph, squeezed into it.
    """
    resize, crop = usual.resize, usual.crop
    if overrides.input_size:
        height, width = overrides.input_size
        crop = height if height == width else overrides.input_size
        square = height == width and isinstance(resize, int)
        resize = round(height * resize / usual.size[0]) if square else overrides.input_size  # type: ignore[operator] # int
    return Preprocessing(
        resize=overrides.resize or resize,
        crop=crop,
        interpolation=overrides.interpolation or usual.interpolation,
        mean=overrides.mean or usual.mean,
        std=overrides.std or usual.std,
    )


def resolve_layers(spec: BackboneSpec, module: nn.Module, layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return module names for a tap set's name, comma-separated names, or names as they are."""
    if isinstance(layers, str):
        if layers in spec.layers:
            return spec.layers[layers]
        if layers in ("proposed", "paper", "released"):
            return propose_layers(spec, module)
        layers = [layer.strip() for layer in layers.split(",") if layer.strip()]
    return tuple(layers)


def _output(overrides: SpecOverrides) -> Output | None:
    return resolve_output(overrides.output) if isinstance(overrides.output, str) else overrides.output


def _one_of(option: str, value: str, known: Any) -> Any:
    if value not in get_args(known):
        raise InputError(f"expected {option} {' or '.join(get_args(known))}, got {value!r}")
    return value
