"""timm's classifiers, by name: ``timm:vit_tiny_patch16_224``; the package is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tame.classifier.probing.infer_spec import infer_spec, unpublished
from tame.classifier.probing.overrides import SpecOverrides, imagenet_names
from tame.classifier.spec import BackboneSpec, Preprocessing
from tame.utils.checks import InputError

PREFIX = "timm:"
_PRETRAINED = "pretrained"


def timm_spec(name: str, overrides: SpecOverrides, arguments: Mapping[str, Any]) -> BackboneSpec:
    """Describe timm's classifier ``name``; preprocessing and class names are those of its published weights.

    Args:
        name: As timm knows it, with or without a tag: ``resnet18``, ``resnet18.a1_in1k``.
        overrides: What replaces its own.
        arguments: For timm's builder, besides the number of classes, of channels and the size of the input.

    Raises:
        InputError: If timm is not installed, knows no such name, or the network has no classes.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{PREFIX}{name} needs the package timm: pip install timm") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:5])
        raise InputError(f"timm has no classifier {name!r}{f'; near names: {near}' if near else ''}")
    config = timm.get_pretrained_cfg(name)
    published = config.to_dict() if config else {}
    classes = overrides.count or published.get("num_classes", 0)
    if not classes:
        raise InputError(f"{PREFIX}{name} is published without classes: give --num-classes and --weights")
    size = _size_argument(overrides, published, arguments)
    options = {"num_classes": classes, **_channels(overrides), **size, **arguments}

    def build(pretrained: bool = False) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return module

    def load() -> Mapping[str, Tensor]:
        try:
            return build(pretrained=True).state_dict()
        except Exception as error:  # no network, no weights published, or some that do not fit
            raise InputError(
                f"the weights of {PREFIX}{name} could not be loaded ({error}); "
                "give a file with --weights PATH, or --weights random"
            ) from error

    as_published = bool(config and config.has_weights) and classes == published.get("num_classes")
    weights = {_PRETRAINED: load} if as_published else unpublished(f"{PREFIX}{name}", classes)
    names = overrides.class_names or (_class_names(published) if as_published else None) or None
    known = SpecOverrides(num_classes=classes, class_names=names)
    return infer_spec(f"{PREFIX}{name}", build, overrides.over(known), _preprocessing(published), weights)


def _size_argument(
    overrides: SpecOverrides, published: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``img_size`` where the input has another size than the network is built for."""
    if not overrides.input_size or not published.get("fixed_input_size") or "img_size" in arguments:
        return {}
    return {"img_size": overrides.input_size}


def _channels(overrides: SpecOverrides) -> dict[str, Any]:
    return {"in_chans": len(overrides.mean)} if overrides.mean else {}


def _preprocessing(published: Mapping[str, Any]) -> Preprocessing:
    """Return timm's evaluation transform: resize to ``crop / crop_pct``, then crop."""
    _, height, width = published.get("input_size", (3, 224, 224))
    share = published.get("crop_pct") or 1.0
    resize: int | tuple[int, int] = int(height / share)
    if height != width or published.get("crop_mode", "center") != "center":
        resize = (int(height / share), int(width / share))  # squeezed, as timm does for `squash`
    interpolation = published.get("interpolation", "bilinear")
    return Preprocessing(
        resize=resize,
        crop=height if height == width else (height, width),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(published.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(published.get("std", (0.229, 0.224, 0.225))),
    )


def _class_names(published: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of published weights, as far as timm knows which data they were trained on."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(dict(published))
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    if info.label_names() == ImageNetInfo("imagenet-1k").label_names():
        return imagenet_names()
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))
