"""From options to a trained explainer on disk."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tame.attention import TAME
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.attention.shared import fold_shared_row
from tame.backbones import find_spec
from tame.checkpoints.native import TENSORS, describe, save_attention
from tame.classifier import FrozenClassifier
from tame.classifier.probing.overrides import Given
from tame.data import list_hash, write_list
from tame.options import TrainOptions
from tame.presets import Preset
from tame.training.last_checkpoint import LastCheckpoint
from tame.training.module import AttentionModule
from tame.training.setup import TrainingLists, logger, resolve_choices, set_up, start, with_attention
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device, resolve_precision
from tame.utils.io import check_same_settings, folder_name, write_json

_SAVE_EVERY = 50  # optimiser steps: what a crash can cost


def train(options: TrainOptions, callbacks: Sequence[Callback] = (), monitor: str = "val/total") -> Path:
    """Train an attention mechanism and write it, with its provenance, to ``options.out``.

    The folder then holds the best epoch's mechanism (``attention.safetensors``, ``metadata.json``), the last
    epoch's in ``last/``, Lightning's checkpoints in ``lightning/``, the logs, and the lists that were used.

    Args:
        options: See `TrainOptions`.
        callbacks: Added to the trainer's.
        monitor: Logged value whose smallest epoch is the best.

    Returns:
        The folder of the run.

    Raises:
        InputError: For anything that cannot be used, before any work.
    """
    device = resolve_device(options.device)
    precision: Any = resolve_precision(options.precision, device, training=True)
    resolve_choices(options)  # what contradicts itself is said first
    spec = find_spec(options.backbone, Given.by(options))
    options = with_attention(options, spec)
    out = Path(options.out or f"runs/{folder_name(spec.name)}")
    _refuse_finished(out, options.resume)
    setup = set_up(options, spec, device)
    choices, model, lists, data = setup
    details = _details(choices, options, model.classifier, lists)
    resume_from = _resume_from(out, options.resume, details)
    write_json(out / "config.json", asdict(options))
    write_list(out / "train.txt", lists.train, lists.train_root)
    write_list(out / "validation.txt", lists.val, lists.val_root)
    started = time.monotonic()
    start(setup, options)
    if choices.epochs == 0:
        return save_attention(out, model, details | {"seconds": round(time.monotonic() - started), "epoch": 0})
    best = ModelCheckpoint(out / "lightning", "best", monitor=monitor, enable_version_counter=False)
    last = LastCheckpoint(out / "lightning" / "last.ckpt", _SAVE_EVERY)
    csv_log = CSVLogger(out, "logs")  # a version per start: a run that continues keeps what is logged already
    trainer = Trainer(
        accelerator=device,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=precision,
        max_epochs=choices.epochs,
        gradient_clip_val=options.clip or None,
        callbacks=[best, last, LearningRateMonitor("step"), *callbacks],
        logger=[csv_log, TensorBoardLogger(out, "logs", csv_log.version)],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
    module = AttentionModule(
        model,
        AttentionLoss(choices.loss, score=model.classifier.spec.score),
        max_lr=choices.max_lr,
        other_classes=choices.other_classes,
        masking=choices.masking,
        seed=options.seed,
        total_steps=choices.epochs * data.steps_per_epoch(trainer.world_size),
    )
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero:
        details["seconds"] = round(time.monotonic() - started)
        metrics = trainer.callback_metrics.items()
        details["metrics"] = {name: round(float(value), 4) for name, value in metrics if name.startswith("val/")}
        _save(out / "last", model, details | {"epoch": choices.epochs})
        if choices.epochs > 1:
            details["metrics"] = {monitor: float(best.best_model_score or 0)}
            _save(out, model, details | {"epoch": _load_best(model, best)})
        else:
            _save(out, model, details | {"epoch": 1})
    return out


def _refuse_finished(out: Path, resume: bool) -> None:
    if resume and (out / TENSORS).is_file():
        raise InputError(f"{out} holds a finished explainer: give another --out, or --resume false to overwrite it")


def _resume_from(out: Path, resume: bool, settings: dict[str, Any]) -> str | None:
    """Return the Lightning checkpoint to continue from, None to start anew.

    Raises:
        InputError: If the interrupted run had other settings, saying what differs.
    """
    last, began = out / "lightning" / "last.ckpt", out / "settings.json"
    if resume and last.is_file():
        check_same_settings(began, settings)
        logger.info("Continuing from %s.", last)
        return str(last)
    last.unlink(missing_ok=True)  # of an earlier run, as is its explainer: an interruption must not confuse them
    (out / TENSORS).unlink(missing_ok=True)
    write_json(began, settings)
    return None


def _details(
    choices: Preset, options: TrainOptions, classifier: FrozenClassifier, lists: TrainingLists
) -> dict[str, Any]:
    """Return the provenance of a run that is known before it starts."""
    return describe(classifier) | {
        "attention": options.attention,
        "output_size": choices.output_size,
        "preset": options.preset,
        "choices": asdict(choices),
        "images": len(lists.train),
        "train_list_sha256": list_hash(lists.train, lists.train_root),
        "val_list_sha256": list_hash(lists.val, lists.val_root),
        "seed": options.seed,
        "precision": options.precision,
        "clip": options.clip,
    }


def _save(folder: Path, model: ExplainedClassifier, details: dict[str, Any]) -> None:
    """Write the mechanism as it is now, the shared row folded into every class's own."""
    attention: Any = copy.deepcopy(model.attention)
    if isinstance(attention, TAME):
        fold_shared_row(attention)
    save_attention(folder, ExplainedClassifier(model.classifier, attention), details)


def _load_best(model: ExplainedClassifier, best: ModelCheckpoint) -> int:
    """Load the best epoch's mechanism; return how many epochs it had been trained."""
    saved = torch.load(best.best_model_path, weights_only=True, map_location=model.classifier.mean.device)
    state = {key.removeprefix("model.attention."): value for key, value in saved["state_dict"].items()}
    model.attention.load_state_dict(state)
    return int(saved["epoch"]) + 1
