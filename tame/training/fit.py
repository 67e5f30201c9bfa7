"""Train what was built, with checkpoints from which an interrupted run is resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tame.attention.loss import AttentionLoss
from tame.callbacks.metrics import AverageDropIncrease
from tame.checkpoints.native import TENSORS
from tame.data import write_list
from tame.training.build import Training
from tame.training.last_checkpoint import LastCheckpoint
from tame.training.module import AttentionModule
from tame.training.plan import TrainingPlan
from tame.utils.io import check_same_settings, write_json

logger = logging.getLogger("tame")

MONITOR = "val/rank/AD_50"
"""Logged value whose smallest epoch is the best."""

_SAVE_EVERY = 50  # optimiser steps; a crash loses at most so many


@dataclass(frozen=True)
class Fitted:
    """What training left.

    Attributes:
        seconds: Duration of the run, also of its initialisation.
        metrics: Validation metrics of the last epoch, as ``val/...``; empty without training.
        best: Lightning's checkpoint of the best epoch, None without training.
        best_metrics: The monitored value of that epoch.
        main_process: Whether this is the main process (rank 0), which writes the results.
    """

    seconds: int
    metrics: Mapping[str, float]
    best: Path | None
    best_metrics: Mapping[str, float]
    main_process: bool = True


def fit(training: Training, callbacks: Sequence[Callback] = (), monitor: str = MONITOR) -> Fitted:
    """Train, after writing the run's settings, configuration and lists to its folder.

    Args:
        training: What to train.
        callbacks: Used besides the validation's own.
        monitor: Logged value whose smallest epoch is the best.

    Raises:
        InputError: For an interrupted run of other settings, a loss that is not finite, or an image that cannot be
            read.
    """
    plan = training.plan
    resume_from = _open_folder(plan)
    if plan.choices.epochs == 0:
        return Fitted(_seconds(training), {}, None, {})
    best = ModelCheckpoint(plan.folder / "lightning", "best", monitor=monitor, enable_version_counter=False)
    last = LastCheckpoint(_last(plan), _SAVE_EVERY)
    trainer = _trainer(plan, [best, last, LearningRateMonitor("step"), *_validation(plan), *callbacks])
    trainer.fit(_module(training, trainer.world_size), training.data, ckpt_path=resume_from, weights_only=True)
    training.model.to(plan.device)  # Lightning leaves it on the CPU
    values = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
    return Fitted(
        seconds=_seconds(training),
        metrics={name: value for name, value in values.items() if name.startswith("val/")},
        best=Path(best.best_model_path),
        best_metrics={monitor: float(best.best_model_score or 0)},
        main_process=trainer.is_global_zero,
    )


def _open_folder(plan: TrainingPlan) -> Path | None:
    """Write what describes the run; return the Lightning checkpoint to resume from, None to start from the beginning.

    Raises:
        InputError: For an interrupted run of other settings, naming the differences.
    """
    last, began, settings = _last(plan), plan.folder / "settings.json", plan.settings()
    resume = plan.resume and last.is_file()
    if resume:
        check_same_settings(began, settings)
        logger.info("Resuming from %s.", last)
    else:
        _forget_earlier_run(plan)
        write_json(began, settings)
    write_json(plan.folder / "config.json", plan.config)
    write_list(plan.folder / "train.txt", plan.lists.train, plan.lists.train_root)
    write_list(plan.folder / "validation.txt", plan.lists.val, plan.lists.val_root)
    return last if resume else None


def _forget_earlier_run(plan: TrainingPlan) -> None:
    """Remove the results of an earlier run in the folder, so that they are not taken for those of this run."""
    for file in (_last(plan), plan.folder / TENSORS):
        if file.is_file():
            logger.info("Removing %s of an earlier run.", file)
            file.unlink(missing_ok=True)  # another process may have been first


def _last(plan: TrainingPlan) -> Path:
    return plan.folder / "lightning" / "last.ckpt"


def _validation(plan: TrainingPlan) -> list[Callback]:
    """Return the callbacks that measure AD and IC of the explanations after each epoch."""
    return [AverageDropIncrease(scalings=("minmax", "rank"), masking=plan.choices.masking)]


def _trainer(plan: TrainingPlan, callbacks: list[Callback]) -> Trainer:
    hardware, index = plan.hardware, plan.device.index
    csv_log = CSVLogger(plan.folder, "logs")  # a new version per start: a resumed run keeps its earlier log
    return Trainer(
        **plan.trainer_arguments(),
        devices=[index] if index and hardware.devices == 1 else hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        max_epochs=plan.choices.epochs,
        callbacks=callbacks,
        logger=[csv_log, TensorBoardLogger(plan.folder, "logs", csv_log.version)],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )


def _module(training: Training, processes: int) -> AttentionModule:
    choices, model = training.plan.choices, training.model
    return AttentionModule(
        model,
        AttentionLoss(choices.loss, score=model.classifier.spec.score),
        max_lr=choices.max_lr,
        other_classes=choices.other_classes,
        masking=choices.masking,
        seed=training.plan.seed,
        total_steps=choices.epochs * training.data.steps_per_epoch(processes),
    )


def _seconds(training: Training) -> int:
    return round(time.monotonic() - training.started)
