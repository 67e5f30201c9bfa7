"""Train what was built, with checkpoints from which an interrupted run is resumed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor

from tame.attention.loss import AttentionLoss
from tame.callbacks.explanations import ExplanationLogger
from tame.callbacks.metrics import AverageDropIncrease
from tame.training.build import Training
from tame.training.folder import begin, is_main, last_checkpoint, read
from tame.training.history import History
from tame.training.interrupts import Interrupted, Interrupts
from tame.training.last_checkpoint import AtomicCheckpoints, BestCheckpoint, LastCheckpoint
from tame.training.loggers import build_loggers
from tame.training.module import AttentionModule
from tame.training.plan import TrainingPlan
from tame.training.progress import ProgressBar, is_verbose, quiet_lightning
from tame.utils.io import WriteError

MONITOR = "val/rank/AD_50"
"""Logged value whose smallest epoch is the best."""

_SAVE_EVERY = 50  # optimiser steps; a crash loses at most so many


@dataclass(frozen=True)
class Fitted:
    """What training left.

    Attributes:
        seconds: Duration of the run, also of its initialisation.
        history: What was measured; empty without training.
        best: Lightning's checkpoint of the best epoch, None without training.
        main_process: Whether this is the main process (rank 0), which writes the results.
    """

    seconds: int
    history: History
    best: Path | None
    main_process: bool


def fit(training: Training, callbacks: Sequence[Callback] = (), monitor: str = MONITOR) -> Fitted:
    """Train, after writing the run's settings, configuration and lists to its folder.

    Args:
        training: What to train.
        callbacks: Used besides the validation's own.
        monitor: Logged value whose smallest epoch is the best.

    Raises:
        InputError: For an interrupted run of other settings or one that cannot be resumed, a loss that is not finite,
            or an image that cannot be read.
        KeyboardInterrupt: After Ctrl-C; its message says how to continue.
        Terminated: After SIGTERM, likewise.
    """
    plan, history = training.plan, History()
    resume_from = begin(training)
    if plan.choices.epochs == 0:
        return Fitted(_seconds(training), history, None, is_main())
    interrupts = Interrupts(alone=plan.hardware.processes == 1)
    try:
        with quiet_lightning(), interrupts:
            best = BestCheckpoint(last_checkpoint(plan).parent, monitor)
            last = LastCheckpoint(last_checkpoint(plan), _SAVE_EVERY, interrupts)
            own = [history, training.unreadable, best, last, *_validation(plan)]
            trainer = _trainer(training, [*own, *callbacks], measure_start=resume_from is None)
            interrupts.of(trainer)
            for each in trainer.loggers:
                each.log_hyperparams(plan.hyperparameters())
            trainer.fit(_module(training), training.data, ckpt_path=resume_from, weights_only=True)
            if not history.validations and (found := read(training)):
                history.load_state_dict(found.history)  # other processes measured it
    except (Interrupted, Exception) as error:
        interrupted = error if isinstance(error, Interrupted) else interrupts.received  # another process ended
        if not interrupted:
            if isinstance(error, OSError) and error.filename is None and error.errno:  # of a logger
                raise WriteError(plan.folder / "logs", error.errno) from error
            raise
        if not is_main():
            raise SystemExit(128 + interrupted.number) from None
        raise interrupted.as_exit(_how_to_continue(training)) from None
    training.model.to(plan.device)  # Lightning leaves it on the CPU
    return Fitted(_seconds(training), history, Path(best.best_model_path), trainer.is_global_zero)


def _how_to_continue(training: Training) -> str:
    if not (found := read(training)):
        return "interrupted before a step could be saved; the same command starts again"
    same = "the same command" if training.plan.output.resume else "the same command with resume true"
    return f"interrupted, {found.steps} of {training.steps} steps are saved; {same} continues from there"


class _Pictures(ExplanationLogger):
    """Draws three images of each validation, without those that cannot be read."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Keep the batch's images."""
        if len(batch["image"]):
            super().on_validation_batch_start(trainer, pl_module, batch, *args)


def _validation(plan: TrainingPlan) -> list[Callback]:
    """Return the callbacks that measure AD and IC of the explanations after each epoch, and draw some."""
    return [AverageDropIncrease(scalings=("minmax", "rank"), masking=plan.choices.masking), _Pictures(n=3)]


def _trainer(training: Training, callbacks: list[Callback], measure_start: bool) -> Trainer:
    plan, hardware = training.plan, training.plan.hardware
    index, loggers = plan.device.index, build_loggers(plan.output.loggers, plan.folder)
    callbacks = callbacks + ([LearningRateMonitor("step")] if loggers else [])
    return Trainer(
        **plan.trainer_arguments(),
        devices=[index] if index and hardware.devices == 1 else hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=hardware.strategy,
        max_epochs=plan.choices.epochs,
        callbacks=callbacks + ([ProgressBar()] if plan.output.progress else []),
        logger=loggers,
        num_sanity_val_steps=-1 if measure_start else 0,
        plugins=[AtomicCheckpoints()],
        default_root_dir=plan.folder,
        log_every_n_steps=max(1, min(10, training.steps // 20)),
        enable_progress_bar=plan.output.progress,
        enable_model_summary=is_verbose(),
    )


def _module(training: Training) -> AttentionModule:
    choices, model = training.plan.choices, training.model
    return AttentionModule(
        model,
        AttentionLoss(choices.loss, score=model.classifier.spec.score),
        max_lr=choices.max_lr,
        other_classes=choices.other_classes,
        masking=choices.masking,
        seed=training.plan.seed,
        total_steps=training.steps,
    )


def _seconds(training: Training) -> int:
    return round(time.monotonic() - training.started)
