"""Images that cannot be read are left out of their batch and told, instead of ending what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch.utils.data import Dataset, default_collate

from tame.data.dataset import Batch, Sample, SampleKey, UnreadableImageError


class Unreadable(NamedTuple):
    """In the place of a sample: why its image cannot be read, in one sentence that names it."""

    problem: str


class ReadableImages(Dataset[Sample | Unreadable]):
    """A dataset whose unreadable images are returned as `Unreadable`; its batches are made by `collate_readable`.

    Args:
        images: The dataset, such as `tame.data.ImageListDataset`.
    """

    def __init__(self, images: Dataset[Sample]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(cast(Any, self.images))

    def __getitem__(self, key: SampleKey) -> Sample | Unreadable:
        """Return a sample, or why it cannot be read."""
        try:
            return self.images[cast(Any, key)]
        except UnreadableImageError as error:
            return Unreadable(str(error))


def collate_readable(samples: Sequence[Sample | Unreadable]) -> Batch:
    """Stack the samples that could be read; why the others could not is in ``unreadable``.

    Args:
        samples: Samples, and `Unreadable` in the place of some.

    Returns:
        The batch, smaller by those that are left out. Without a readable image ``image`` is (0, 1, 1, 1).
    """
    readable = [sample for sample in samples if not isinstance(sample, Unreadable)]
    problems = [sample.problem for sample in samples if isinstance(sample, Unreadable)]
    none = torch.empty(0, dtype=torch.int64)
    batch: Batch = (
        default_collate(readable) if readable else Batch(image=torch.empty(0, 1, 1, 1), label=none, index=none)
    )
    if problems:
        batch["unreadable"] = problems
    return batch
