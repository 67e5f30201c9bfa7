"""A dataset of listed images whose samples do not depend on workers or processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tame.data.images import load_image
from tame.data.lists import ImageEntry
from tame.data.transforms import Crop
from tame.utils.checks import InputError
from tame.utils.seeds import mixed_seed

SampleKey = int | tuple[int, int]


class Sample(TypedDict):
    """One image (C, H, W) in [0, 1], its label (-1 if unknown), and its index in the list."""

    image: Tensor
    label: int
    index: int


class Batch(TypedDict):
    """Samples stacked: ``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` int64 (B,).

    ``unreadable`` says why images are left out, see `tame.data.readable`.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    unreadable: NotRequired[list[str]]


class UnreadableImageError(InputError):
    """An image of a list cannot be read; the message is one sentence, also if a worker process raised the error."""

    def __init__(self, message: str) -> None:
        # torch re-raises a worker's error with the worker's traceback as its message, which ends with the original one
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class ImageListDataset(Dataset[Sample]):
    """The images of a list, resized and cropped.

    ``dataset[index]`` is the sample of epoch 0, ``dataset[index, epoch]`` that of another epoch. A random crop depends
    on the seed, the epoch and the index only, not on the worker that reads it or the order.

    Args:
        entries: Image files and labels.
        transform: Resize and crop.
        seed: Seed of the random crops.
    """

    def __init__(self, entries: Sequence[ImageEntry], transform: Crop, seed: int = 0) -> None:
        # arrays, since forked workers would copy the memory of Python objects whose reference counts they change
        self._paths = np.array([os.fsencode(entry.path) for entry in entries], dtype=np.bytes_)
        self._labels = np.array([-1 if entry.label is None else entry.label for entry in entries], dtype=np.int64)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample by index, or by (index, epoch).

        Raises:
            UnreadableImageError: If the file cannot be read, naming it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        try:
            photo = load_image(Path(os.fsdecode(self._paths[index])), self.transform.channels)
        except InputError as error:
            raise UnreadableImageError(str(error)) from error
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, index))
        return Sample(image=self.transform(photo, generator), label=int(self._labels[index]), index=index)


class EpochSampler(Sampler[SampleKey]):
    """Shuffles samples by (seed, epoch), so that a resumed run has the same order as an uninterrupted one.

    Lightning calls `set_epoch` before each epoch, also if it distributes this sampler over processes.

    Args:
        length: Number of samples.
        seed: Seed of the shuffling.

    Example:
        >>> sampler = EpochSampler(3, seed=0)
        >>> sampler.set_epoch(5)
        >>> sorted(sampler)
        [(0, 5), (1, 5), (2, 5)]
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0
        self._seen = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def start_after(self, epoch: int, seen: int) -> None:
        """Set the epoch, and move its first ``seen`` samples, which have been trained on, to the end.

        They are not dropped, so that every epoch has the same length in every process.
        """
        self.epoch = epoch
        self._seen = (epoch, seen)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[SampleKey]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order: list[int] = torch.randperm(self.length, generator=generator).tolist()
        epoch, seen = self._seen
        start = seen if epoch == self.epoch else 0
        return iter([(index, self.epoch) for index in order[start:] + order[:start]])
