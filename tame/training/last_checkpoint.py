"""Lightning's checkpoint of a run that can be interrupted at any step and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every few optimiser steps, and after each epoch's validation.

    An epoch's last step is left to its end: a run that continues from before the validation would skip it.

    Args:
        path: The file; it is replaced whole.
        every: Batches between two checkpoints: what a crash can cost.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch."""
        if trainer.global_step % self.every == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save between two epochs."""
        trainer.save_checkpoint(self.path)
