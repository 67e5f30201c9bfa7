"""Lightning's checkpoints on disk: written atomically, the last one beside its predecessor, and read again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from tame.training.interrupts import Interrupted, Interrupts
from tame.utils.checks import InputError, shown
from tame.utils.io import replacing

logger = logging.getLogger("tame")

PREFIX = "model.attention."
"""Names of the mechanism's tensors in a checkpoint begin with this."""

_KEYS = {"state_dict", "epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"}
_OTHERWISE = "choose another output folder (out), or start over (resume false)"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically: Lightning's own way copies from the folder of temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; an earlier one is kept until this one is on the disk.

        Raises:
            WriteError: If the disk is full, for instance.
        """
        content = BytesIO()  # torch hides what the system says about a file that it writes itself
        torch.save(checkpoint, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the smallest value of a metric, also after the folder was moved.

    Args:
        folder: Where the file is.
        monitor: Name of the metric.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(folder, "best", monitor=monitor, enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint: that of Lightning's class."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint.

        Raises:
            InputError: If the file of the best epoch so far cannot be read.
        """
        if path := state_dict["best_model_path"]:
            here = Path(str(self.dirpath)) / Path(path).name
            try:
                torch.load(here, map_location="cpu", weights_only=True)
            except Exception as error:  # damaged files make torch raise errors of almost any kind
                raise InputError(
                    f"cannot resume: expected the checkpoint of the best epoch in {shown(here)}, "
                    f"got {_in_short(error)}: {_OTHERWISE}"
                ) from error
            names = ("best_model_path", "kth_best_model_path")
            state_dict = (
                state_dict
                | dict.fromkeys(names, str(here))
                | {"dirpath": self.dirpath, "best_k_models": {str(here): state_dict["best_model_score"]}}
            )
        super().load_state_dict(state_dict)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every few optimiser steps, after each epoch's validation, and when training ends early.

    There is none between an epoch's last step and its validation: a run resumed from there would skip the validation.
    Before the last step there is one, so that a run that is interrupted while it validates repeats that step only. The
    predecessor is kept as ``previous.ckpt``.

    Args:
        path: The file.
        every: Optimiser steps between two checkpoints.
        interrupts: Signals that end the training after a step.
    """

    def __init__(self, path: Path, every: int, interrupts: Interrupts) -> None:
        self.path = path
        self.every = every
        self.interrupts = interrupts
        self._unsaved = False  # whether the trainer is between two batches of an epoch, and this place is not saved

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals in place of Lightning."""
        self.interrupts.install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals in place of Lightning."""
        self.interrupts.install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a step, which is not interrupted."""
        self._unsaved, self.interrupts.in_step = False, True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch, and end the training if a signal has arrived."""
        left = trainer.num_training_batches - batch_idx - 1
        if left:
            self._unsaved = True
            if left == 1 or trainer.global_step % self.every == 0:
                self._save(trainer)
        self.interrupts.in_step = False
        self._end_if_interrupted(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """End the training if a signal has arrived."""
        self._end_if_interrupted(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save between two epochs."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what is done, unless the disk is full; one of several processes cannot."""
        self.interrupts.in_step = False
        if self._unsaved and trainer.world_size == 1 and not isinstance(exception, OSError):
            self._save(trainer)

    def _end_if_interrupted(self, trainer: Trainer) -> None:
        if number := self.interrupts.agreed(trainer):
            if self._unsaved:
                self._save(trainer)
            raise Interrupted(number)

    def _save(self, trainer: Trainer) -> None:
        new = self.path.with_name("next.ckpt")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if self.path.is_file():
                self.path.replace(previous_of(self.path))
            new.replace(self.path)
        trainer.strategy.barrier("last.ckpt")  # the first process to end takes the others with it
        self._unsaved = False


def previous_of(path: Path) -> Path:
    """Return the file of the checkpoint before ``path``, a ``last.ckpt``."""
    return path.with_name("previous.ckpt")


class Found(NamedTuple):
    """A checkpoint that can be resumed from.

    Attributes:
        file: The file.
        steps: Optimiser steps that are done.
        history: State of `tame.training.history.History`; empty in checkpoints of earlier versions.
    """

    file: Path
    steps: int
    history: Mapping[str, Any]


def read_last(path: Path, tensors: Mapping[str, Tensor]) -> Found | None:
    """Read the last checkpoint of a run, or the one before it if the last one is damaged, with a log message.

    Args:
        path: The ``last.ckpt``.
        tensors: Tensors of the mechanism by name, for their names and shapes.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        InputError: If no checkpoint can be read.
    """
    problems = []
    for file in (path, previous_of(path)):
        if not file.is_file():
            continue
        try:
            found = _read(file, tensors)
        except Exception as error:  # damaged files make torch raise errors of almost any kind
            problems.append(f"{shown(file)} ({_in_short(error)})")
            continue
        if problems:
            logger.warning("Cannot read %s: the checkpoint before it is used.", problems[0])
        return found
    if problems:
        raise InputError(f"cannot resume: expected a checkpoint of this run in {' or '.join(problems)}: {_OTHERWISE}")
    return None


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__


def _read(file: Path, tensors: Mapping[str, Tensor]) -> Found:
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise InputError("it is no checkpoint of a training run")
    found = {name.removeprefix(PREFIX): tuple(value.shape) for name, value in content["state_dict"].items()}
    if found != {name: tuple(value.shape) for name, value in tensors.items()}:
        raise InputError("it is of another attention mechanism")
    return Found(file, int(content["global_step"]), content["callbacks"].get("History", {}))
