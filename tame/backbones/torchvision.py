"""Classifiers of torchvision by name; the layer sets of VGG-16, ResNet-50 and ViT-B/16 are those of the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torchvision import models

from tame.classifier.probing.infer_spec import no_published_weights, override_preprocessing
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.spec import BackboneSpec, Preprocessing, TokenLayout
from tame.utils.checks import InputError

_VIT_BLOCKS = tuple(f"encoder.layers.encoder_layer_{index}" for index in (9, 10, 11))
_VIT_NORMS = tuple(f"{block}.ln_1" for block in _VIT_BLOCKS)  # the norms before self-attention
_RESNET = ("layer2", "layer3", "layer4")
_VGG = ("features.16", "features.23", "features.30")  # the max-pooling layers

_NOTHING = SpecOverrides()

_KNOWN: dict[str, dict[str, object]] = {
    "vgg16": {
        "layers": {
            "paper": _VGG,
            "released": _VGG,
            "proposed": _VGG,
            "convolutional": ("features.15", "features.22", "features.29"),
        },
        "cam_layer": "features.29",
    },
    "resnet50": {
        "layers": {"paper": _RESNET, "released": _RESNET, "proposed": _RESNET},
        "cam_layer": "layer4",
    },
    "vit_b_16": {
        "layers": {"paper": _VIT_BLOCKS, "released": _VIT_NORMS, "proposed": _VIT_NORMS},
        "cam_layer": _VIT_NORMS[-1],
        "layer_aliases": {f"{block}.ln": f"{block}.ln_1" for block in _VIT_BLOCKS},
    },
}


def torchvision_names() -> list[str]:
    """Return the names of all classifiers of the installed torchvision."""
    return [name for name in models.list_models(module=models) if not name.startswith("quantized_")]


def torchvision_spec(
    name: str, overrides: SpecOverrides = _NOTHING, arguments: Mapping[str, Any] = MappingProxyType({})
) -> BackboneSpec:
    """Return the spec of a classifier of torchvision, with the preprocessing and class names of its published weights.

    Args:
        name: Name in torchvision.
        overrides: Number of classes and preprocessing, if they differ from those of the published weights.
        arguments: Further keyword arguments of torchvision's builder.

    Raises:
        InputError: If torchvision has no such classifier, or it does not support the input size.
    """
    if name not in torchvision_names():
        raise InputError(f"torchvision has no classifier {name!r}")
    entries = [entry for entry in models.get_model_weights(name) if entry.meta["categories"]]
    preprocessing = override_preprocessing(_preprocessing(entries[0]), overrides)
    class_names = tuple(entries[0].meta["categories"])
    options = _builder_options(name, preprocessing)
    patches: TokenLayout | None = None
    if "image_size" in options:  # the position embedding has a fixed image size
        entries = [entry for entry in entries if _preprocessing(entry).size == preprocessing.size]
        patches = _patches(name, preprocessing)
    count = overrides.count
    if count and count != len(class_names):
        options["num_classes"], entries = count, []
        class_names = tuple(f"class {index}" for index in range(count))
    spec = BackboneSpec(
        name=name,
        build=lambda: models.get_model(name, weights=None, **{**options, **arguments}),
        preprocessing=preprocessing,
        class_names=class_names,
        masking="vit" if patches else "cnn",
        tokens=patches,
        weights={entry.name.lower(): _loader(entry) for entry in entries}
        or no_published_weights(name, len(class_names)),
        weights_preprocessing={
            entry.name.lower(): own
            for entry in entries
            if (own := override_preprocessing(_preprocessing(entry), overrides)) != preprocessing
        },
    )
    return replace(spec, **_KNOWN.get(name, {}))  # type: ignore[arg-type] # values of the table above


def _patches(name: str, preprocessing: Preprocessing) -> TokenLayout:
    """Return the token layout of a vision transformer; its builder only supports squares of whole patches."""
    height, width = preprocessing.size
    patch = int(name.rsplit("_", 1)[1])
    if height != width or height % patch:
        raise InputError(f"expected a square input of whole {patch}-pixel patches for {name}, got {height}x{width}")
    return TokenLayout(prefix=1, grid=(height // patch, width // patch))


def _preprocessing(entry: models.WeightsEnum) -> Preprocessing:
    transforms = entry.transforms()
    return Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _builder_options(name: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the builder arguments with which the network matches its published weights."""
    if name.startswith("vit_"):
        return {"image_size": preprocessing.size[0]}
    if name == "maxvit_t":  # the attention windows have a fixed image size
        return {"input_size": preprocessing.size}
    if name in ("googlenet", "inception_v3"):  # published weights need another normalisation; init_weights is slow
        return {"transform_input": True, "init_weights": False}
    return {}


def _loader(entry: models.WeightsEnum) -> Callable[[], Mapping[str, Tensor]]:
    def load() -> Mapping[str, Tensor]:
        try:
            return entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # no internet connection, or a wrong hash
            raise InputError(
                f"the weights {entry.name} could not be downloaded from {entry.url} ({error}); "
                'choose a file of weights, or random ones (weights "random")'
            ) from error

    return load
