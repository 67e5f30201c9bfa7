"""Explain one photograph, or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.data import Crop, array_to_photo, load_image, to_photo
from tame.functional.masking import min_max
from tame.functional.scores import scores
from tame.inference.result import Explanation
from tame.options import CommonOptions, MethodOptions
from tame.types import Explainer
from tame.utils.checks import check_maps
from tame.utils.versions import versions

Device = Literal["auto", "cpu", "cuda", "mps"]


class Method(NamedTuple):
    """What explains, and under which names.

    Attributes:
        classifier: Scores the classes; brings preprocessing and class names.
        explainer: Explains images (B, C, H, W) in [0, 1] and targets (B,).
        method: Name of the explainer, for the manifest.
        preset: Name of the preset, for the manifest.
    """

    classifier: FrozenClassifier
    explainer: Explainer
    method: str
    preset: str


class Seen(NamedTuple):
    """A photograph and what the classifier sees of it: ``image`` (C, H, W) in [0, 1]."""

    photo: Image.Image
    image: Tensor
    image_size: tuple[int, int]
    crop: tuple[float, float, float, float]
    file: str | None


def see(photo: Image.Image, crop: Crop, file: str | None) -> Seen:
    """Return an upright RGB photograph of any size as the classifier sees it."""
    image = crop(photo if crop.channels == 3 else photo.convert("L"))
    return Seen(photo, image, photo.size, crop.box(*photo.size), file)


def explain(
    image: str | Path | Image.Image | np.ndarray | Tensor,
    backbone: str | FrozenClassifier = "efficientnet_lite0",
    target: int | str | None = None,
    method: str = "ttame",
    checkpoint: str = "",
    weights: str = "",
    device: Device = "cpu",
    layers: str = "",
    cam_layer: str = "",
    preset: str = "tame",
) -> Explanation:
    """Explain one photograph; the classifier and the explainer used last are kept for the next call.

    Args:
        image: File, PIL image, or array (C, H, W), (H, W, C) or (H, W): uint8, or floats in [0, 1].
        backbone: Name of the classifier, or one of your own, which brings its weights, layers and device.
        target: Class to explain, index or name; None: the best one.
        method: Explanation method.
        checkpoint: Trained attention mechanism; empty: the one shipped for the backbone.
        weights: Name of published weights, or path of a state_dict; empty: the first published ones.
        device: auto, cpu, cuda or mps.
        layers: Tap set or module names; empty: the checkpoint's, else the preset's.
        cam_layer: Layer that the CAM methods explain; empty: the backbone's own.
        preset: paper, released or tame.

    Raises:
        InputError: For anything that cannot be used.
    """
    if isinstance(image, str | Path):
        photo, file = load_image(image), str(image)
    else:
        photo, file = to_photo(image) if isinstance(image, Image.Image) else array_to_photo(image), None
    by = _set_up(backbone, weights, layers, preset, device, method, checkpoint, cam_layer)
    spec = by.classifier.spec
    targets = None if target is None else [spec.resolve_target(target)]
    seen = see(photo, Crop.of(spec.preprocessing), file)
    return explain_batch([[seen]], [by], targets, top=1)[0][0][0]


@lru_cache(maxsize=1)
def _set_up(
    backbone: str | FrozenClassifier,
    weights: str,
    layers: str,
    preset: str,
    device: Device,
    method: str,
    checkpoint: str,
    cam_layer: str,
) -> Method:
    from tame.explainers import build_explainer
    from tame.explainers.setup import set_up

    options = MethodOptions(method=method, checkpoint=checkpoint, cam_layer=cam_layer, preset=preset)
    if isinstance(backbone, FrozenClassifier):
        return Method(backbone, build_explainer(backbone, options), method, preset)
    common = CommonOptions(backbone=backbone, weights=weights, layers=layers, preset=preset, device=device)
    setup = set_up(common, options)
    return Method(setup.classifier, setup.explainer, method, preset)


def explain_batch(
    batch: Sequence[Sequence[Seen]], methods: Sequence[Method], targets: Sequence[int] | None, top: int
) -> list[list[list[Explanation]]]:
    """Explain the asked classes of photographs, or those that the first method's classifier finds best, by each method.

    Args:
        batch: Per photograph, what each method's classifier sees of it.
        methods: What explains; a network that several share scores the classes once.
        targets: Classes to explain; None: the best ones of each photograph.
        top: How many of the best ones.

    Returns:
        Per photograph and method, an explanation of each class.
    """
    if not batch:
        return []
    scored: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # images (B, C, H, W) and logits (B, K) of each network
    chosen: Tensor | None = None  # (B, T)
    explained = []
    for by, views in zip(methods, zip(*batch, strict=True), strict=True):
        network = by.classifier.module  # classifiers with other taps share it
        if network not in scored:
            images = torch.stack([seen.image for seen in views]).to(by.classifier.mean.device)
            with torch.no_grad():
                scored[network] = images, by.classifier.logits(images).float()
        if chosen is None:
            chosen = _choose(scored[network][1], targets, top)
        explained.append(_explain_classes(by, views, *scored[network], chosen))
    return [list(photograph) for photograph in zip(*explained, strict=True)]


def _choose(logits: Tensor, targets: Sequence[int] | None, top: int) -> Tensor:
    """Return the asked classes, each once, or the best ones by ``logits`` (B, K): (B, T)."""
    if targets is None:
        return logits.topk(top).indices
    return torch.tensor(list(dict.fromkeys(targets)), device=logits.device).expand(len(logits), -1)


def _explain_classes(
    by: Method, batch: Sequence[Seen], images: Tensor, logits: Tensor, chosen: Tensor
) -> list[list[Explanation]]:
    """Return, per photograph, the explanations of the ``chosen`` classes (B, T)."""
    spec, made_with = by.classifier.spec, versions()
    confidences = scores(logits, spec.score).gather(1, chosen).tolist()
    maps = [_scaled_maps(by.explainer, images, column) for column in chosen.unbind(1)]  # T times (B, h, w)
    return [
        [
            Explanation(
                photo=seen.photo,
                map=maps[rank][row],
                target=target,
                class_name=spec.class_names[target],
                confidence=confidences[row][rank],
                method=by.method,
                backbone=spec.name,
                preset=by.preset,
                image_size=seen.image_size,
                crop=seen.crop,
                file=seen.file,
                versions=made_with,
            )
            for rank, target in enumerate(chosen[row].tolist())
        ]
        for row, seen in enumerate(batch)
    ]


def _scaled_maps(explainer: Explainer, images: Tensor, targets: Tensor) -> np.ndarray:
    maps = explainer(images, targets.contiguous())
    check_maps(maps, len(images))
    return min_max(maps.detach().float()).cpu().numpy()
