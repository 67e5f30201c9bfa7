"""Training and validation images as a Lightning data module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import DataLoader, Sampler

from tame.classifier import Preprocessing
from tame.data.dataset import EpochSampler, ImageListDataset, Sample, SampleKey
from tame.data.lists import ImageEntry
from tame.data.readable import ReadableImages, collate_readable
from tame.data.transforms import CROP_KINDS, CropKind
from tame.data.user_images import UserDataset, UserImages, open_images
from tame.utils.checks import InputError
from tame.utils.limits import check_numbers
from tame.utils.processes import end_with_parent


def image_loader(
    dataset: ImageListDataset | UserDataset | ReadableImages, batch_size: int, num_workers: int = 0
) -> DataLoader[Sample]:
    """Return a loader of the dataset's images in order, in batches (`tame.data.dataset.Batch`)."""
    collate = collate_readable if isinstance(dataset, ReadableImages) else None
    return DataLoader(cast(Any, dataset), batch_size=batch_size, collate_fn=collate, **_worker_options(num_workers))


def _worker_options(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "worker_init_fn": end_with_parent,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


class ResumableLoader(DataLoader[Sample]):
    """A loader that a Lightning checkpoint resumes within an epoch, with the batches not yet trained on.

    Attributes:
        epochs: The sampler, before Lightning distributes it over processes.
        seen: Function that returns how many samples of the current epoch have been trained on. The loader cannot count
            them itself, since its workers prefetch.
    """

    epochs: EpochSampler
    seen: Callable[[], int]

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its samples that have been trained on."""
        return {"epoch": self.epochs.epoch, "seen": self.seen()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the samples recorded in ``state``; called before the first iteration."""
        self.epochs.start_after(state["epoch"], state["seen"])


class ImageListDataModule(LightningDataModule):
    """Loaders of a training list and a validation list of images.

    Training images are shuffled in each epoch, by seed and epoch. A last, smaller training batch is dropped unless it
    is the only one. Validation uses all images, with centre crops. Unreadable images are left out of their batches, and
    told there (`tame.data.readable`).

    Args:
        train: Training images; may be empty if nothing is trained.
        val: Validation images.
        preprocessing: Resize, crop, interpolation and channels of the backbone.
        crop: Crop of the training images: ``centre``, ``random`` or ``random-flip``.
        batch_size: Images per batch.
        num_workers: Number of worker processes that read images; 0: the main process reads them.
        seed: Seed of shuffling and random crops.
        user_images: The user's own dataset, in which the images are; None: they are files.

    Raises:
        InputError: For a batch size below 1, a negative number of workers, or an unknown crop.
    """

    def __init__(
        self,
        train: Sequence[ImageEntry],
        val: Sequence[ImageEntry],
        preprocessing: Preprocessing,
        crop: CropKind = "centre",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        user_images: UserImages | None = None,
    ) -> None:
        super().__init__()
        check_numbers(batch_size=batch_size, num_workers=num_workers)
        self.train, self.val = train, val
        if crop not in CROP_KINDS:
            raise InputError(f"expected one of the crops {', '.join(CROP_KINDS)}, got {crop!r}")
        self.preprocessing, self.crop, self.user_images = preprocessing, crop, user_images
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def setup(self, stage: str | None = None) -> None:
        """Create the datasets."""
        train = open_images(self.train, self.preprocessing, self.crop, self.seed, self.user_images)
        val = open_images(self.val, self.preprocessing, "centre", self.seed, self.user_images)
        self.train_set, self.val_set = ReadableImages(train), ReadableImages(val)

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled training batches; a resumed run starts after the samples that it has trained on.

        Raises:
            InputError: If there are no training images.
        """
        if not len(self.train_set):
            raise InputError("expected training images, got none")
        sampler = EpochSampler(len(self.train_set), self.seed)
        sampler.set_epoch(self._epoch())
        loader = ResumableLoader(
            cast(Any, self.train_set),
            batch_size=self.batch_size,
            collate_fn=collate_readable,
            sampler=self._dealt(sampler),
            drop_last=len(self.train_set) > self.batch_size * self._processes(),
            **_worker_options(self.num_workers),
        )
        loader.epochs, loader.seen = sampler, self._seen
        return loader

    def steps_per_epoch(self, processes: int = 1) -> int:
        """Return the number of training batches of each process, without creating a loader."""
        per_process = -(-len(self.train) // processes)  # samples are repeated to fill all processes equally
        return max(1, per_process // self.batch_size)

    def _dealt(self, sampler: EpochSampler) -> Sampler[SampleKey]:
        """Return this process's share of the samples, dealt in turn: what was trained on is then first in the order.

        Lightning would shuffle them once more before it deals them.
        """
        if self.trainer is None or self._processes() == 1:
            return sampler
        return DistributedSamplerWrapper(
            sampler, num_replicas=self._processes(), rank=self.trainer.global_rank, shuffle=False
        )

    def _epoch(self) -> int:
        """Return the epoch that is trained next.

        Lightning tells the sampler only after creating the iterator, when workers already prefetch; and a run that is
        resumed between two epochs still has the number of the earlier one as its current epoch.
        """
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        return int(progress.processed)

    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _seen(self) -> int:
        """Return how many samples of the current epoch have been trained on, by all processes."""
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return progress.processed * self.batch_size * self._processes()

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the validation batches, in order."""
        return image_loader(self.val_set, self.batch_size, self.num_workers)
