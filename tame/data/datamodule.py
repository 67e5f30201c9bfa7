"""Training and validation images for Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from tame.data.dataset import EpochSampler, ImageListDataset, Sample
from tame.data.lists import ImageEntry
from tame.data.transforms import Crop, CropKind, CropValues
from tame.utils.checks import InputError


def image_loader(dataset: ImageListDataset, batch_size: int, num_workers: int = 0) -> DataLoader[Sample]:
    """Return a loader of `tame.data.dataset.Batch`, in order."""
    return DataLoader(dataset, batch_size=batch_size, **_worker_options(num_workers))


def _worker_options(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


class ResumableLoader(DataLoader[Sample]):
    """A loader that Lightning's checkpoints can continue inside an epoch, with the batches not yet seen.

    Attributes:
        epochs: The sampler, as it was before Lightning sharded it over processes.
        seen: Returns how many samples of the current epoch training has had. The loader itself cannot know: its
            workers read ahead.
    """

    epochs: EpochSampler
    seen: Callable[[], int]

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of its samples that training has had."""
        return {"epoch": self.epochs.epoch, "seen": self.seen()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the samples of ``state``; called before the first iteration."""
        self.epochs.start_after(state["epoch"], state["seen"])


class ImageListDataModule(LightningDataModule):
    """Two lists of images as loaders.

    Training images are shuffled anew in each epoch, by seed and epoch. A last, smaller training batch is left
    out unless it is the only one; validation sees every image, at the centre.

    Args:
        train: Training images; may be empty where nothing is trained.
        val: Validation images.
        preprocessing: The backbone's resize, crop, interpolation and channels.
        crop: Where training images are cropped: ``centre``, ``random`` or ``random-flip``.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        seed: Of shuffling and random crops.

    Raises:
        InputError: For a batch size below 1, negative workers, or an unknown crop.
    """

    def __init__(
        self,
        train: Sequence[ImageEntry],
        val: Sequence[ImageEntry],
        preprocessing: CropValues,
        crop: CropKind = "centre",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"expected a batch size of at least 1, got {batch_size}")
        if num_workers < 0:
            raise InputError(f"expected a number of workers of at least 0, got {num_workers}")
        self.train, self.val = train, val
        self.train_crop, self.val_crop = Crop.of(preprocessing, crop), Crop.of(preprocessing)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def setup(self, stage: str | None = None) -> None:
        """Make the datasets."""
        self.train_set = ImageListDataset(self.train, self.train_crop, self.seed)
        self.val_set = ImageListDataset(self.val, self.val_crop, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled training batches; a run that continues starts after what it has seen."""
        if not len(self.train_set):
            raise InputError("expected training images, got none")
        sampler = EpochSampler(len(self.train_set), self.seed)
        # Lightning sets the epoch only after it made the iterator, and workers read at once
        sampler.set_epoch(self.trainer.current_epoch if self.trainer else 0)
        loader = ResumableLoader(
            self.train_set,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=len(self.train_set) > self.batch_size * self._processes(),
            **_worker_options(self.num_workers),
        )
        loader.epochs, loader.seen = sampler, self._seen
        return loader

    def steps_per_epoch(self, processes: int = 1) -> int:
        """Return the number of training batches of each process, without making a loader."""
        per_process = -(-len(self.train) // processes)  # the last samples are repeated where they do not divide
        return max(1, per_process // self.batch_size)

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
