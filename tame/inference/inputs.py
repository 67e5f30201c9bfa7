"""The images that a user gives to `tame.explain`, as inputs of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tame.classifier import BackboneSpec
from tame.data import Crop, array_to_photo, channels_to_photo, check_file, load_image, to_photo
from tame.data.user_images import images_and_labels, in_unit_range
from tame.inference.batch import Classes, OwnClass, PreparedImage, prepare_image
from tame.utils.checks import InputError

OneImage: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
"""An image: a file, a PIL image, or an array of three dimensions (grey: two)."""

SeveralImages: TypeAlias = Sequence[OneImage] | np.ndarray | Tensor | Dataset[Any] | DataLoader[Any]
"""A list of images, a batch (B, C, H, W), a dataset, or a loader of batches."""

Targets: TypeAlias = int | str | Sequence[int | str] | np.ndarray | Tensor | None
"""A class for all images, one for each, or None: the predicted ones."""

_BATCH = 8  # images that are explained together


class _Read(NamedTuple):
    """An image, and its file where it is from one."""

    image: Any
    file: str | None

    @classmethod
    def of(cls, image: Any) -> _Read:
        if isinstance(image, str | Path):
            return cls(load_image(image), str(image))
        return image if isinstance(image, cls) else cls(image, None)


class Inputs:
    """Images as inputs of a classifier, in batches.

    Args:
        images: One image or several.
        normalised: Whether float tensors are normalised by the classifier's mean and std.
        channels: Channels to draw, see `tame.data.channels_to_photo`.

    Raises:
        InputError: For images of another kind, none, a file that does not exist, or channels that cannot be drawn.
    """

    def __init__(self, images: OneImage | SeveralImages, normalised: bool, channels: Sequence[int] | None) -> None:
        self.one = isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray | Tensor) and images.ndim != 4
        )
        self.normalised, self.channels = normalised, channels
        self._images: Any = [_Read.of(images)] if self.one else images
        several = isinstance(self._images, list | tuple | np.ndarray | Tensor | Dataset | DataLoader)
        if not several or isinstance(self._images, IterableDataset):
            raise InputError(
                "expected an image (a file, a PIL image, an array), a list of images, a batch (B, C, H, W), a Dataset "
                f"or a DataLoader, got {type(images).__name__}"
            )
        if not isinstance(self._images, DataLoader) and not len(cast("Sized", self._images)):
            raise InputError(f"expected at least one image, got an empty {type(images).__name__}")
        for each in self._images if isinstance(self._images, list | tuple) else ():
            if isinstance(each, str | Path):
                check_file(Path(each))

    def batches(self, spec: BackboneSpec, target: Targets) -> Iterator[tuple[list[PreparedImage], Classes | OwnClass]]:
        """Yield the inputs of the classifier and the classes to explain.

        Raises:
            InputError: For an image that it cannot be shown, an unknown class, another number of classes than images,
                or a loader without images.
        """
        if self.channels is not None:
            _check_channels(self.channels, spec)
        targets, count = _indices(target, spec), 0
        if isinstance(targets, list) and not isinstance(self._images, DataLoader):
            _check_count(targets, len(self._images))
        each = (self._prepared(image, spec) for image in self._each())
        while batch := list(islice(each, _BATCH)):
            start, count = count, count + len(batch)
            if isinstance(targets, list):
                if len(targets) < count:
                    _check_count(targets, count)
                yield batch, OwnClass(tuple(targets[start:count]))
            else:
                yield batch, Classes(None if targets is None else (targets,))
        if not count:
            raise InputError("expected a DataLoader with images, got an empty one")
        if isinstance(targets, list):
            _check_count(targets, count)

    def _each(self) -> Iterator[Any]:
        if not isinstance(self._images, DataLoader):
            samples = (self._images[index] for index in range(len(self._images)))
            yield from (images_and_labels(one)[0] for one in samples) if isinstance(self._images, Dataset) else samples
            return
        for batch in self._images:
            images, _ = images_and_labels(batch)
            if not isinstance(images, Tensor) or images.ndim != 4:
                raise InputError(
                    "expected a DataLoader of batches (images, labels), or dicts with image, whose images are tensors "
                    f"(B, C, H, W), got {type(batch).__name__}"
                )
            yield from images

    def _prepared(self, image: Any, spec: BackboneSpec) -> PreparedImage:
        image, file = _Read.of(image)
        pixels = spec.preprocessing
        if isinstance(image, np.ndarray) and pixels.channels not in (1, 3):
            image = torch.from_numpy(image)
        if isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 3:
            image = in_unit_range(image.detach()[None], pixels, spec.name, self.normalised)[0]
            if tuple(image.shape) == pixels.shape:
                photo, (height, width) = channels_to_photo(image, self.channels), pixels.size
                return PreparedImage(photo, image.float().clamp(0, 1), (width, height), (0, 0, width, height), file)
        if pixels.channels not in (1, 3):
            got = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else "an image of 3 channels"
            raise InputError(
                f"expected a float tensor of shape {pixels.shape} in [0, 1], the input of {spec.name}, got {got}"
            )
        photo = to_photo(image) if isinstance(image, Image.Image) else array_to_photo(image)
        return prepare_image(photo, Crop.of(pixels), file)


def _indices(targets: Targets, spec: BackboneSpec) -> list[int] | int | None:
    """Return targets as class indices: one for all images, one for each, or None."""
    if isinstance(targets, Tensor | np.ndarray | np.generic):
        targets = targets.tolist()
    if isinstance(targets, list | tuple):
        return [spec.resolve_target(each) for each in targets]
    return None if targets is None else spec.resolve_target(cast("int | str", targets))


def _check_count(targets: Sequence[int], images: int) -> None:
    if len(targets) != images:
        raise InputError(f"expected one target for each of {images} images, or one for all, got {len(targets)}")


def _check_channels(channels: Sequence[int], spec: BackboneSpec) -> None:
    count = spec.preprocessing.channels
    if len(channels) not in (1, 3) or not all(0 <= each < count for each in channels):
        raise InputError(f"expected one or three channels to draw in 0..{count - 1}, got {list(channels)}")
