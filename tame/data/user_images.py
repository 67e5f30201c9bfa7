"""Images of the user's own batches, datasets and loaders, in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from tame.classifier import Preprocessing
from tame.data.dataset import ImageListDataset, Sample, SampleKey
from tame.data.images import array_to_photo, to_photo
from tame.data.lists import ImageEntry
from tame.data.transforms import Crop, CropKind
from tame.utils.checks import InputError, check_images
from tame.utils.seeds import mixed_seed
from tame.utils.threads import random_state

IMAGE_KEYS, LABEL_KEYS = ("image", "images", "pixel_values"), ("label", "labels", "target", "targets")
_EACH_ONCE = (SequentialSampler, RandomSampler, DistributedSampler, type(None))
_OVERSHOOT = 0.25  # resizing and augmentation leave [0, 1] by at most so much; a wrong mean or std by more


def images_and_labels(batch: Any) -> tuple[Any, Any]:
    """Return what stands for images and labels in a batch or sample, None where it has none.

    Example:
        >>> images_and_labels(("x", "y")), images_and_labels({"pixel_values": "x"}), images_and_labels("x")
        (('x', 'y'), ('x', None), ('x', None))
    """
    if isinstance(batch, Mapping):
        images, labels = (next((batch[key] for key in keys if key in batch), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        return images, labels
    if isinstance(batch, list | tuple):
        return (*batch, None, None)[:2]
    return batch, None


def undo_normalisation(images: Tensor, preprocessing: Preprocessing, name: str, otherwise: str) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] that were normalised by the mean and std of a classifier.

    Args:
        images: Normalised images; other shapes are returned as they are, for a check that names them.
        preprocessing: Mean and std.
        name: Name of the classifier, for messages.
        otherwise: What to do if they were not, for messages.

    Raises:
        InputError: For values that are clearly outside of [0, 1] afterwards.
    """
    if images.ndim != 4 or images.shape[1] != preprocessing.channels:
        return images
    mean, std = (images.new_tensor(each, dtype=torch.float32) for each in (preprocessing.mean, preprocessing.std))
    images = images * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    if images.numel() and not (images.min() >= -_OVERSHOOT and images.max() <= 1 + _OVERSHOOT):
        raise InputError(
            f"expected images normalised by mean {preprocessing.mean} and std {preprocessing.std} of {name}, got "
            f"values in [{images.min():.4g}, {images.max():.4g}] after undoing that; {otherwise}"
        )
    return images.clamp(0, 1)


def in_unit_range(images: Tensor, preprocessing: Preprocessing, name: str, normalised: bool) -> Tensor:
    """Return images (B, C, H, W) in [0, 1], that are so already or were normalised by the mean and std of a classifier.

    Raises:
        InputError: For values outside of [0, 1].
    """
    if normalised:
        return undo_normalisation(images, preprocessing, name, "correct the mean and std, or use normalised=False")
    if images.is_floating_point() and images.numel() and not (images.min() >= -1e-6 and images.max() <= 1 + 1e-6):
        raise InputError(
            f"expected an image in [0, 1], got values in [{images.min():.4g}, {images.max():.4g}]: use normalised=True "
            f"for one that is normalised by mean {preprocessing.mean} and std {preprocessing.std}"
        )
    return images


@dataclass(frozen=True)
class UserImages:
    """Images of the user's own dataset, by index.

    Attributes:
        dataset: Returns an image, ``(image, label)``, or a dict with ``image``, by index.
        collate: Makes a batch of a list of samples, as the user's loader does; None without a loader.
        indices: Indices of the images.
        normalised: Whether they are normalised by the classifier's mean and std.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any] | None
    indices: Sequence[int]
    normalised: bool

    @classmethod
    def of(cls, data: Dataset[Any] | DataLoader[Any], normalised: bool) -> Self:
        """Describe a dataset, or the dataset of a loader in the batches that it collates.

        Raises:
            InputError: For a dataset without length or indices, or a loader that samples or batches in its own way.
        """
        dataset, collate, sampler = data, None, None
        if isinstance(data, DataLoader):
            dataset, collate, sampler = data.dataset, data.collate_fn, data.sampler
            if data.batch_size is None:
                raise InputError(
                    "expected a DataLoader with a batch_size, got one with batches of its own: give its Dataset"
                )
        if isinstance(dataset, IterableDataset) or not all(
            hasattr(dataset, name) for name in ("__len__", "__getitem__")
        ):
            raise InputError(f"expected a Dataset with a length and an index, got {type(dataset).__name__}")
        if isinstance(sampler, SubsetRandomSampler):
            indices: Sequence[int] = sorted(map(int, sampler.indices))
        elif isinstance(sampler, _EACH_ONCE) and not getattr(sampler, "replacement", False):
            indices = range(len(dataset))  # type: ignore[arg-type] # checked above
        else:
            name = type(sampler).__name__
            raise InputError(
                f"expected a DataLoader that gives each image once, got a {name}: give its Dataset or a Subset"
            )
        return cls(dataset, collate, indices, normalised)

    @property
    def description(self) -> str:
        """What it is, for files that record a run."""
        return f"{type(self.dataset).__name__} of {len(self.indices)} images in memory"

    def entries(self) -> list[ImageEntry]:
        """Return an entry per image, whose path is its index."""
        return [ImageEntry(Path(str(index)), None) for index in self.indices]

    def image(self, index: int, preprocessing: Preprocessing, kind: CropKind, generator: torch.Generator) -> Tensor:
        """Return one image (C, H, W) in [0, 1].

        PIL images and arrays of uint8 are resized and cropped; floats are taken as they are.

        Raises:
            InputError: For a sample without an image, or an image of another shape or range.
        """
        sample = self.dataset[index]
        image, _ = images_and_labels(self.collate([sample]) if self.collate else sample)
        if self.collate and image is not None:
            image = image[0]
        if isinstance(image, Image.Image):
            return Crop.of(preprocessing, kind)(to_photo(image, preprocessing.channels), generator)
        image = torch.from_numpy(image) if isinstance(image, np.ndarray) else image
        if not isinstance(image, Tensor):
            raise InputError(
                f"expected samples (image, label) or dicts with one of {', '.join(IMAGE_KEYS)}: PIL images, arrays "
                f"or tensors, got {type(image).__name__} in {type(self.dataset).__name__}"
            )
        if image.dtype == torch.uint8:
            photo = to_photo(array_to_photo(image), preprocessing.channels)
            return Crop.of(preprocessing, kind)(photo, generator)
        name = type(self.dataset).__name__
        images = in_unit_range(image.detach()[None], preprocessing, name, self.normalised)
        check_images(images, preprocessing.channels)
        if tuple(images.shape[1:]) != preprocessing.shape:
            raise InputError(
                f"expected tensors of shape {preprocessing.shape}, the classifier's input, got "
                f"{tuple(images.shape[1:])} in {name}: describe the input by "
                "FrozenClassifier.from_module(network, preprocess=tame.Preprocessing(...))"
            )
        return images[0].float()


class UserDataset(Dataset[Sample]):
    """Chosen images of `UserImages` as samples.

    Args:
        images: The user's images.
        entries: Which of them.
        preprocessing: Of the classifier.
        kind: Crop of images that are not tensors yet.
        seed: Seed of random crops; also of the user's own transforms where these use torch's random numbers.
    """

    def __init__(
        self,
        images: UserImages,
        entries: Sequence[ImageEntry],
        preprocessing: Preprocessing,
        kind: CropKind = "centre",
        seed: int = 0,
    ) -> None:
        self.images, self.indices = images, [int(entry.path.name) for entry in entries]
        self.preprocessing, self.kind, self.seed = preprocessing, kind, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample by index, or by (index, epoch).

        Raises:
            InputError: For a sample that cannot be used.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        seed = mixed_seed(self.seed, epoch, index)
        with random_state(seed):
            generator = torch.Generator().manual_seed(seed)
            image = self.images.image(self.indices[index], self.preprocessing, self.kind, generator)
        return Sample(image=image, label=-1, index=index)


def open_images(
    entries: Sequence[ImageEntry],
    preprocessing: Preprocessing,
    crop: CropKind = "centre",
    seed: int = 0,
    user_images: UserImages | None = None,
) -> ImageListDataset | UserDataset:
    """Return the dataset of listed images, which are files or in the user's own dataset."""
    if user_images is None:
        return ImageListDataset(entries, Crop.of(preprocessing, crop), seed)
    return UserDataset(user_images, entries, preprocessing, crop, seed)
