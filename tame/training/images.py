"""Which images a run trains and validates on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset

from tame.data import (
    ImageEntry,
    draw,
    draw_per_label,
    list_hash,
    read_list,
    resolve_folders,
    resolve_list,
    split_validation,
    walk_images,
)
from tame.data.user_images import UserImages
from tame.utils.checks import InputError, shown
from tame.utils.limits import check_numbers

logger = logging.getLogger("tame")


@dataclass(frozen=True)
class TrainingLists:
    """The images of a run.

    Attributes:
        train: Training entries; of the user's own dataset their paths are indices.
        val: Validation entries, likewise.
        train_root: Folder that the paths of the training entries are relative to.
        val_root: Folder that the paths of the validation entries are relative to.
        train_file: File of the training list, None if there is none.
        val_file: File of the validation list, None if there is none.
        user_images: The user's own dataset, None for files.
    """

    train: Sequence[ImageEntry]
    val: Sequence[ImageEntry]
    train_root: Path
    val_root: Path
    train_file: Path | None = None
    val_file: Path | None = None
    user_images: UserImages | None = None

    def check_kept(self, written: Sequence[Path]) -> None:
        """Check that a run does not write other lists over those that it reads.

        Args:
            written: Where it writes the list of its training and that of its validation images.

        Raises:
            InputError: If it does.
        """
        hashes = self.hashes()
        for file, name in zip(written, ("train_list_sha256", "val_list_sha256"), strict=True):
            for read in (self.train_file, self.val_file):
                if read and file.is_file() and file.samefile(read) and _sha256(file) != hashes[name]:
                    raise InputError(
                        f"expected lists of images outside of out, got {shown(read)}, which the run would overwrite: "
                        "choose another output folder (out)"
                    )

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of both lists, and what the user's own dataset is."""
        return {
            "train_list_sha256": list_hash(self.train, self.train_root),
            "val_list_sha256": list_hash(self.val, self.val_root),
            **({"dataset": self.user_images.description} if self.user_images else {}),
        }


@dataclass(frozen=True)
class TrainingImages:
    """The choice of images for a run; None is the default. See `tame.train` for the fields.

    Raises:
        InputError: For a limit below 1, a fraction out of range, or what only images in files can have beside a
            dataset.
    """

    data: str | Path | Dataset[Any] | DataLoader[Any] | None = None
    normalised: bool = False
    lists: str | Path | None = None
    train_list: str | Path | None = None
    val_list: str | Path | None = None
    per_label: int | None = None
    limit_images: int | None = None
    limit_val_images: int | None = None
    max_bad_images: float = 0.01

    def __post_init__(self) -> None:
        check_numbers(per_label=self.per_label, limit_images=self.limit_images, limit_val_images=self.limit_val_images)
        if not 0 <= self.max_bad_images <= 1:
            raise InputError(
                f"expected max_bad_images, a fraction of the images, from 0 to 1, got {self.max_bad_images}"
            )
        if self.user_images is None:
            if self.normalised:
                raise InputError("expected normalised only with a Dataset or DataLoader as data: files are in [0, 1]")
            return
        names = ("lists", "train_list", "val_list", "per_label")
        if refused := [name for name in names if getattr(self, name) is not None]:
            raise InputError(f"expected {', '.join(refused)} only with a folder as data, got a Dataset or DataLoader")

    @cached_property
    def user_images(self) -> UserImages | None:
        """The user's own dataset; None for files."""
        if self.data is None or isinstance(self.data, str | Path):
            return None
        return UserImages.of(self.data, self.normalised)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `tame train`; a dataset, which no command can name, is described."""
        arguments = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "normalised"}
        return arguments | ({"data": self.user_images.description} if self.user_images else {})

    def find(self, num_classes: int, seed: int) -> TrainingLists:
        """Find the images.

        Args:
            num_classes: Labels are below this number.
            seed: Seed of the drawn subsets and of the validation images that are split off.

        Raises:
            InputError: For a missing folder, list or image, or a line that cannot be read.
        """
        if self.user_images:
            train, val = split_validation(self.user_images.entries(), seed=seed)
            logger.info("%d of %d images were split off for validation.", len(val), len(train) + len(val))
            train, val = draw(train, self.limit_images, seed), draw(val, self.limit_val_images, seed)
            return TrainingLists(train, val, Path(), Path(), user_images=self.user_images)
        folders = resolve_folders(cast("str | Path | None", self.data))
        train_file = resolve_list(self.train_list, self.lists, "train.txt")
        train = read_list(train_file, folders.train, num_classes) if train_file else walk_images(folders.train)
        val_file = resolve_list(self.val_list, self.lists, "Validation.txt")
        if val_file:
            val, val_root = read_list(val_file, folders.val, num_classes), folders.val
        else:
            (train, val), val_root = split_validation(train, seed=seed), folders.train
            logger.info("No validation list: %d of %d images were split off.", len(val), len(train) + len(val))
        train = draw(draw_per_label(train, self.per_label, seed), self.limit_images, seed)
        val = draw(val, self.limit_val_images, seed)
        return TrainingLists(train, val, folders.train, val_root, train_file, val_file)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
