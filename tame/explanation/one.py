"""Explain one photograph, or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.checks import check_maps
from tame.data import Crop, array_to_photo, load_image, to_photo
from tame.explanation.result import Explanation
from tame.functional.masking import min_max
from tame.options import CommonOptions, MethodOptions
from tame.types import Explainer
from tame.versions import versions

Device = Literal["auto", "cpu", "cuda", "mps"]


class Method(NamedTuple):
    """What explains, and under which names."""

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
    return explain_batch([seen], by, targets, top=1)[0][0]


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

    options = MethodOptions(method=method, checkpoint=checkpoint, cam_layer=cam_layer)
    if isinstance(backbone, FrozenClassifier):
        return Method(backbone, build_explainer(backbone, options), method, preset)
    common = CommonOptions(backbone=backbone, weights=weights, layers=layers, preset=preset, device=device)
    setup = set_up(common, options)
    return Method(setup.classifier, setup.explainer, method, preset)


def explain_batch(
    batch: Sequence[Seen], by: Method, targets: Sequence[int] | None, top: int
) -> list[list[Explanation]]:
    """Return, per photograph, the explanations of the asked classes or of its best ones."""
    if not batch:
        return []
    spec, made_with = by.classifier.spec, versions()
    images = torch.stack([seen.image for seen in batch]).to(by.classifier.mean.device)
    with torch.no_grad():
        logits = by.classifier.logits(images).float()
    if targets is None:
        chosen = logits.topk(top).indices  # (B, T)
    else:
        chosen = torch.tensor(list(dict.fromkeys(targets)), device=logits.device).expand(len(batch), -1)
    confidences = logits.softmax(1).gather(1, chosen).tolist()
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
