"""Images that cannot be read: named, counted, and left out, as long as they are few."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer

from tame.data.dataset import Batch
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

Part = Literal["training", "validation"]


class UnreadableImages(Callback):
    """Names each unreadable image once, and ends the run if there are too many.

    Args:
        training: Number of training images.
        validation: Number of validation images.
        most: Largest fraction of either that may be unreadable, rounded up to whole images.

    Attributes:
        problems: Why images cannot be read, each once, in sentences that name them.
    """

    def __init__(self, training: int, validation: int, most: float) -> None:
        self.totals: dict[Part, int] = {"training": training, "validation": validation}
        self.most = most
        self.problems: dict[Part, list[str]] = {"training": [], "validation": []}

    def note(self, part: Part, batch: Batch) -> None:
        """Note what a batch lacks.

        Raises:
            InputError: If too many images cannot be read, or all.
        """
        for problem in batch.get("unreadable", ()):
            if problem not in self.problems[part]:
                logger.warning("%s; the %s image is left out.", problem, part)
                self.problems[part].append(problem)
        self._check(part)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note what a batch lacks."""
        self.note("training", batch)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        """Note what a batch lacks."""
        self.note("validation", batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share what the processes found."""
        if trainer.world_size == 1:
            return
        found: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, self.problems)
        for part in self.problems:
            self.problems[part] = sorted({problem for one in found for problem in one[part]})
            self._check(part)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {part: list(problems) for part, problems in self.problems.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        for part in self.problems:
            self.problems[part] = list(state_dict[part])

    def summary(self) -> dict[str, int]:
        """Return the number of unreadable images of each part that has some."""
        return {part: len(problems) for part, problems in self.problems.items() if problems}

    def _check(self, part: Part) -> None:
        found, total = len(self.problems[part]), self.totals[part]
        if found > math.ceil(self.most * total) or (found and found == total):
            raise InputError(
                f"{found} of {total} {part} images cannot be read, which is more than max_bad_images "
                f"({100 * self.most:g} %); the last one: {self.problems[part][-1]}"
            )
