"""From a network and what is known of it to a complete spec: what is not known is found out by running it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tame.backbones.given import Given
from tame.backbones.inspect import find_tokens, propose_layers
from tame.backbones.outputs import Output, read_logits, resolve_output
from tame.backbones.spec import BackboneSpec, Preprocessing
from tame.checks import InputError
from tame.types import MaskingKind, ScoreKind

USUAL = Preprocessing(256, 224)
"""ImageNet's."""


def describe(
    name: str,
    build: Callable[[], nn.Module],
    given: Given,
    usual: Preprocessing = USUAL,
    weights: Mapping[str, Callable[[], Mapping[str, Tensor] | None]] | None = None,
) -> BackboneSpec:
    """Describe a network: the number of its classes and the layout of its tokens are found out, unless given.

    Args:
        name: What the classifier is called.
        build: Returns the network; it is called once here.
        given: What is known of it.
        usual: Preprocessing, as far as it is not given.
        weights: Its published weights.

    Raises:
        InputError: If the network refuses its input, or contradicts what is given.
    """
    preprocessing = adapted(usual, given)
    module = _built(name, build).eval()
    logits, output = read_logits(module, preprocessing.shape, _output(given))
    found = 1 if logits.ndim == 1 else logits.shape[1]
    single = found == 1 and given.score != "sigmoid"  # one logit tells two classes apart
    count = given.num_classes or len(given.class_names) or (2 if single else found)
    tokens = given.tokens or find_tokens(module, preprocessing.shape)
    spec = BackboneSpec(
        name=name,
        build=build,
        preprocessing=preprocessing,
        class_names=tuple(f"class {index}" for index in range(count)),
        masking="vit" if tokens else "cnn",
        tokens=tokens,
        weights=weights or {},
        output=output,
        score=_one_of("score", given.score or "softmax", ScoreKind),
    )
    return with_given(spec, given)


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


def with_given(spec: BackboneSpec, given: Given) -> BackboneSpec:
    """Return a spec with what is given in the place of its own.

    Raises:
        InputError: For another number of class names than of classes, or a word that is not known.
    """
    changes: dict[str, Any] = {"preprocessing": adapted(spec.preprocessing, given)}
    if changes["preprocessing"] != spec.preprocessing:
        changes["weights_preprocessing"] = {}
    if given.class_names:
        if len(given.class_names) != spec.num_classes:
            raise InputError(f"expected {spec.num_classes} class names for {spec.name}, got {len(given.class_names)}")
        changes["class_names"] = given.class_names
    if given.layers:
        changes["layers"] = dict.fromkeys(("paper", "released", "proposed"), given.layers)
    if given.masking:
        changes["masking"] = _one_of("masking", given.masking, MaskingKind)
    if given.score:
        changes["score"] = _one_of("score", given.score, ScoreKind)
    if given.output:
        changes["output"] = _output(given)
    for word in ("cam_layer", "tokens"):
        if getattr(given, word):
            changes[word] = getattr(given, word)
    return replace(spec, **changes)


def unpublished(name: str, num_classes: int) -> dict[str, Callable[[], Mapping[str, Tensor]]]:
    """Return the weights of a classifier that has none: asking for them says so."""

    def refuse() -> Mapping[str, Tensor]:
        raise InputError(
            f"no weights are published for {name} with {num_classes} classes: give --weights FILE, or --weights random"
        )

    return {"published": refuse}


def adapted(usual: Preprocessing, given: Given) -> Preprocessing:
    """Return preprocessing with what is given in its place.

    Where the input's size is given and the resize is not, a square keeps the usual proportion of the two; any other
    shape shows the whole photograph, squeezed into it.
    """
    resize, crop = usual.resize, usual.crop
    if given.input_size:
        height, width = given.input_size
        crop = height if height == width else given.input_size
        square = height == width and isinstance(resize, int)
        resize = round(height * resize / usual.size[0]) if square else given.input_size  # type: ignore[operator] # int
    return Preprocessing(
        resize=given.resize or resize,
        crop=crop,
        interpolation=given.interpolation or usual.interpolation,
        mean=given.mean or usual.mean,
        std=given.std or usual.std,
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


def _output(given: Given) -> Output | None:
    return resolve_output(given.output) if isinstance(given.output, str) else given.output


def _one_of(option: str, value: str, known: Any) -> Any:
    if value not in get_args(known):
        raise InputError(f"expected {option} {' or '.join(get_args(known))}, got {value!r}")
    return value
