"""Images of a list as samples, the same ones whatever reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

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
    """One image (C, H, W) in [0, 1], its label (-1: unknown), and its position in the list."""

    image: Tensor
    label: int
    index: int


class Batch(TypedDict):
    """Samples stacked: ``image`` (B, C, H, W) in [0, 1], ``label`` and ``index`` int64 (B,)."""

    image: Tensor
    label: Tensor
    index: Tensor


class UnreadableImageError(InputError):
    """An image of a list cannot be read: one sentence, also when torch passes it on from a worker process."""

    def __init__(self, message: str) -> None:
        # torch raises a worker's error again with the worker's traceback as its message, which ends in ours
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class ImageListDataset(Dataset[Sample]):
    """The images of a list, cropped.

    ``dataset[index]`` is the sample of epoch 0, ``dataset[index, epoch]`` that of any other: a random crop
    depends on the seed, the epoch and the index, never on who reads it or when.

    Args:
        entries: The list.
        transform: Resizes and crops.
        seed: Of the random crops.
    """

    def __init__(self, entries: Sequence[ImageEntry], transform: Crop, seed: int = 0) -> None:
        # Arrays, not a list of objects: forked workers would copy every page whose reference counts they touch.
        self._paths = np.array([os.fsencode(entry.path) for entry in entries], dtype=np.bytes_)
        self._labels = np.array([-1 if entry.label is None else entry.label for entry in entries], dtype=np.int64)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return a sample.

        Raises:
            UnreadableImageError: Naming the file, if it cannot be read.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        try:
            photo = load_image(Path(os.fsdecode(self._paths[index])), self.transform.channels)
        except InputError as error:
            raise UnreadableImageError(str(error)) from error
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, index))
        return Sample(image=self.transform(photo, generator), label=int(self._labels[index]), index=index)


class EpochSampler(Sampler[SampleKey]):
    """Shuffle by (seed, epoch), so that a resumed run sees what an uninterrupted one sees.

    Lightning calls `set_epoch` before each epoch, also where it shards this sampler over processes.

    Args:
        length: Number of samples.
        seed: Of the shuffling.

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
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def start_after(self, epoch: int, seen: int) -> None:
        """Choose ``epoch``, and put its first ``seen`` samples last: training has had them.

        They are not left out, so that every epoch has the same length, on every process.
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
