"""Training and validation images for Lightning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from tame.checks import InputError
from tame.data.dataset import EpochSampler, ImageListDataset, Sample
from tame.data.lists import ImageEntry
from tame.data.transforms import Crop, CropKind, CropValues


def image_loader(
    dataset: ImageListDataset,
    batch_size: int,
    num_workers: int = 0,
    sampler: EpochSampler | None = None,
    drop_last: bool = False,
) -> DataLoader[Sample]:
    """Return a loader of `tame.data.dataset.Batch`, in order unless there is a sampler."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


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

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled training batches."""
        if not len(self.train_set):
            raise InputError("expected training images, got none")
        processes = self.trainer.world_size if self.trainer else 1
        return image_loader(
            self.train_set,
            self.batch_size,
            self.num_workers,
            sampler=EpochSampler(len(self.train_set), self.seed),
            drop_last=len(self.train_set) > self.batch_size * processes,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the validation batches, in order."""
        return image_loader(self.val_set, self.batch_size, self.num_workers)
