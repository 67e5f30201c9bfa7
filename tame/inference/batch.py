"""Explain a batch of images by one explainer or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.data import Crop
from tame.functional.masking import drawable
from tame.functional.scores import scores
from tame.inference.result import Explanation
from tame.types import Explainer
from tame.utils.checks import InputError, check_maps
from tame.utils.limits import check_numbers
from tame.utils.versions import versions


class NamedExplainer(NamedTuple):
    """An explainer and the names that its explanations carry.

    Attributes:
        classifier: Computes the confidences; provides preprocessing and class names.
        explainer: Maps images (B, C, H, W) in [0, 1] and targets (B,) to maps (B, h, w).
        method: Name of the method, for the manifest.
        preset: Name of the preset, for the manifest.
    """

    classifier: FrozenClassifier
    explainer: Explainer
    method: str
    preset: str


class PreparedImage(NamedTuple):
    """An image, and the classifier's input made from it.

    Attributes:
        image: The whole image, upright RGB.
        inputs: (C, H, W) in [0, 1].
        image_size: (width, height) of the whole image, in pixels.
        crop: (left, top, right, bottom) of the region in ``inputs``, in pixels of ``image_size``.
        file: File of the image, if it is from a file.
    """

    image: Image.Image
    inputs: Tensor
    image_size: tuple[int, int]
    crop: tuple[float, float, float, float]
    file: str | None


@dataclass(frozen=True)
class Classes:
    """Which classes of each image are explained: the same ones in all, or the most confident ones of each.

    Attributes:
        targets: Class indices; None: the most confident classes.
        top: Number of the most confident classes.

    Raises:
        InputError: For no targets, or ``top`` below 1.
    """

    targets: tuple[int, ...] | None = None
    top: int = 1

    def __post_init__(self) -> None:
        if self.targets is not None and not self.targets:
            raise InputError("expected at least one class to explain, or None for the most confident ones, got none")
        check_numbers(top=self.top)

    @property
    def count(self) -> int:
        """Number of classes of each image."""
        return self.top if self.targets is None else len(set(self.targets))

    def check(self, spec: BackboneSpec) -> None:
        """Check that a classifier has these classes.

        Raises:
            InputError: For an unknown class, or more classes than there are.
        """
        for target in self.targets or ():
            spec.resolve_target(target)
        if self.top > spec.num_classes:
            raise InputError(f"expected top in 1..{spec.num_classes}, got {self.top}")

    def choose(self, logits: Tensor) -> Tensor:
        """Return the classes (B, T) to explain by ``logits`` (B, K), each once, the most confident first."""
        if self.targets is None:
            return logits.topk(self.top).indices
        return torch.tensor(list(dict.fromkeys(self.targets)), device=logits.device).expand(len(logits), -1)


@dataclass(frozen=True)
class OwnClass:
    """One class of each image.

    Attributes:
        targets: Class indices, one for each image of a batch.
    """

    targets: tuple[int, ...]

    def choose(self, logits: Tensor) -> Tensor:
        """Return the classes (B, 1) to explain."""
        return torch.tensor(self.targets, device=logits.device)[:, None]


def prepare_image(image: Image.Image, crop: Crop, file: str | None) -> PreparedImage:
    """Return an upright RGB image of any size with the classifier's input."""
    inputs = crop(image if crop.channels == 3 else image.convert("L"))
    return PreparedImage(image, inputs, image.size, crop.box(*image.size), file)


def explain_batch(
    batch: Sequence[Sequence[PreparedImage]], methods: Sequence[NamedExplainer], classes: Classes | OwnClass
) -> list[list[list[Explanation]]]:
    """Explain classes of images by each method.

    Args:
        batch: Per image and method, the input of the method's classifier.
        methods: The explainers; the logits of a network that several share are computed once.
        classes: Which classes; the most confident ones are those of the first method's classifier.

    Returns:
        Per image and method, an explanation of each class.
    """
    if not batch:
        return []
    scored: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # images (B, C, H, W) and logits (B, K) of each network
    chosen: Tensor | None = None  # (B, T)
    explained = []
    for by, prepared in zip(methods, zip(*batch, strict=True), strict=True):
        network = by.classifier.module  # shared by classifiers with other feature layers
        if network not in scored:
            images = torch.stack([one.inputs for one in prepared]).to(by.classifier.mean.device)
            with torch.no_grad():
                scored[network] = images, by.classifier.logits(images).float()
        if chosen is None:
            chosen = classes.choose(scored[network][1])
        explained.append(_explain_classes(by, prepared, *scored[network], chosen))
    return [list(of_image) for of_image in zip(*explained, strict=True)]


def _explain_classes(
    by: NamedExplainer, batch: Sequence[PreparedImage], images: Tensor, logits: Tensor, chosen: Tensor
) -> list[list[Explanation]]:
    """Return, per image, the explanations of the ``chosen`` classes (B, T)."""
    spec, made_with = by.classifier.spec, versions()
    confidences = scores(logits, spec.score).gather(1, chosen).tolist()
    maps = [_scaled_maps(by.explainer, images, column) for column in chosen.unbind(1)]  # T times
    return [
        [
            Explanation(
                image=prepared.image,
                map=maps[rank][0][row],
                target=target,
                class_name=spec.class_names[target],
                confidence=confidences[row][rank],
                method=by.method,
                backbone=spec.name,
                preset=by.preset,
                image_size=prepared.image_size,
                crop=prepared.crop,
                file=prepared.file,
                versions=made_with,
                note=maps[rank][1][row],
            )
            for rank, target in enumerate(chosen[row].tolist())
        ]
        for row, prepared in enumerate(batch)
    ]


def _scaled_maps(explainer: Explainer, images: Tensor, targets: Tensor) -> tuple[np.ndarray, list[str | None]]:
    """Return maps (B, h, w) to draw, and what is wrong with each."""
    maps = explainer(images, targets.contiguous())
    check_maps(maps, len(images))
    scaled, notes = drawable(maps.detach().float())
    return scaled.cpu().numpy(), notes
