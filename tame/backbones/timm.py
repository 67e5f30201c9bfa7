"""Classifiers of timm by name, such as ``timm:vit_tiny_patch16_224``; timm is an optional dependency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tame.classifier.probing.infer_spec import infer_spec, no_published_weights
from tame.classifier.probing.overrides import SpecOverrides, imagenet_names
from tame.classifier.spec import BackboneSpec, Preprocessing
from tame.utils.checks import InputError

PREFIX = "timm:"
_PRETRAINED = "pretrained"


def timm_spec(name: str, overrides: SpecOverrides, arguments: Mapping[str, Any]) -> BackboneSpec:
    """Return the spec of a classifier of timm, with the preprocessing and class names of its published weights.

    Args:
        name: Name in timm, with or without a tag: ``resnet18``, ``resnet18.a1_in1k``.
        overrides: Properties that replace its own.
        arguments: Further keyword arguments of ``timm.create_model``; the number of classes, number of channels and
            input size are set from ``overrides``.

    Raises:
        InputError: If timm is not installed, has no such classifier, or the number of classes is unknown.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{PREFIX}{name} needs the package timm: pip install timm") from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:5])
        raise InputError(f"timm has no classifier {name!r}{f'; similar names: {near}' if near else ''}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")[:5])
        raise InputError(f"timm has no classifier {name!r}; its weights: {tags or 'none'}") from error
    published = config.to_dict() if config else {}
    classes = overrides.count or published.get("num_classes", 0)
    if not classes:
        raise InputError(f"{PREFIX}{name} is published without classes: set the number of classes and the weights")
    size = _size_argument(overrides, published, arguments)
    options = {"num_classes": classes, **_channels(overrides), **size, **arguments}

    def build(pretrained: bool = False) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return module

    def load() -> Mapping[str, Tensor]:
        try:
            return build(pretrained=True).state_dict()
        except Exception as error:  # no internet connection, no published weights, or weights that do not match
            raise InputError(
                f"the weights of {PREFIX}{name} could not be loaded ({error}); "
                'choose a file of weights, or random ones (weights "random")'
            ) from error

    as_published = bool(config and config.has_weights) and classes == published.get("num_classes")
    weights = {_PRETRAINED: load} if as_published else no_published_weights(f"{PREFIX}{name}", classes)
    names = overrides.class_names or (_class_names(published) if as_published else None) or None
    known = SpecOverrides(num_classes=classes, class_names=names)
    return infer_spec(f"{PREFIX}{name}", build, overrides.over(known), _preprocessing(published), weights)


def _size_argument(
    overrides: SpecOverrides, published: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the argument ``img_size`` if the input size is overridden and the network has a fixed one."""
    if not overrides.input_size or not published.get("fixed_input_size") or "img_size" in arguments:
        return {}
    return {"img_size": overrides.input_size}


def _channels(overrides: SpecOverrides) -> dict[str, Any]:
    return {"in_chans": len(overrides.mean)} if overrides.mean else {}


def _preprocessing(published: Mapping[str, Any]) -> Preprocessing:
    """Return timm's evaluation preprocessing: resize to ``crop / crop_pct``, then crop."""
    _, height, width = published.get("input_size", (3, 224, 224))
    share = published.get("crop_pct") or 1.0
    resize: int | tuple[int, int] = int(height / share)
    if height != width or published.get("crop_mode", "center") != "center":
        resize = (int(height / share), int(width / share))  # without regard to the aspect ratio, timm's `squash`
    interpolation = published.get("interpolation", "bilinear")
    return Preprocessing(
        resize=resize,
        crop=height if height == width else (height, width),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(published.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(published.get("std", (0.229, 0.224, 0.225))),
    )


def _class_names(published: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of published weights; empty if timm does not know their training data."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(dict(published))
    if not subset:
        return ()
    info = ImageNetInfo(subset)
    if info.label_names() == ImageNetInfo("imagenet-1k").label_names():
        return imagenet_names()
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))
