"""From options to a trained explainer on disk."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tame.attention import TAME, build_attention
from tame.attention.initialise import initialise_from_gradients
from tame.attention.shared import fold_shared_row, share_row
from tame.backbones import FrozenClassifier, load_backbone
from tame.backbones.gradients import class_gradients
from tame.checkpoint import TENSORS, describe, save_attention
from tame.checks import InputError
from tame.data import (
    Crop,
    ImageEntry,
    ImageListDataset,
    draw,
    draw_per_label,
    list_hash,
    read_list,
    resolve_folders,
    resolve_list,
    split_validation,
    walk_images,
    write_list,
)
from tame.data.datamodule import ImageListDataModule, image_loader
from tame.devices import resolve_device, resolve_precision
from tame.files import check_same_settings, write_json
from tame.loss import AttentionLoss
from tame.model import ExplainedClassifier
from tame.options import TrainOptions
from tame.presets import PRESETS, Preset
from tame.training.last import LastCheckpoint
from tame.training.module import AttentionModule

logger = logging.getLogger("tame")

_INIT_BATCH = 16
_SAVE_EVERY = 50  # optimiser steps: what a crash can cost
_RELEASED_CROP = {"cnn": "centre", "vit": "random-flip"}


@dataclass(frozen=True)
class TrainingLists:
    """The images of a run: training and validation entries, and the folders their paths start from."""

    train: Sequence[ImageEntry]
    val: Sequence[ImageEntry]
    train_root: Path
    val_root: Path


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
    choices = resolve_choices(options)
    out = Path(options.out or f"runs/{options.backbone}")
    _refuse_finished(out, options.resume)
    seed_everything(options.seed, verbose=False)
    classifier = load_backbone(options.backbone, options.weights, options.layers or choices.layers).to(device)
    model = _build(choices, options, classifier)
    lists = find_lists(options, classifier.spec.num_classes)
    data = _data(choices, options, classifier, lists)
    details = _details(choices, options, classifier, lists)
    resume_from = _resume_from(out, options.resume, details)
    write_json(out / "config.json", asdict(options))
    write_list(out / "train.txt", lists.train, lists.train_root)
    write_list(out / "validation.txt", lists.val, lists.val_root)
    started = time.monotonic()
    _start(model, choices, options, lists)
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
        AttentionLoss(choices.loss),
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


def resolve_choices(options: TrainOptions) -> Preset:
    """Return the preset with the options' own choices in place.

    Raises:
        InputError: For choices that contradict each other.
    """
    preset = PRESETS.get(options.preset)
    choices = replace(
        preset,
        init=options.init or preset.init,
        trainable=options.trainable or preset.trainable,
        loss=options.loss or preset.loss,
        masking=options.masking or None,
        epochs=preset.epochs if options.epochs < 0 else options.epochs,
        batch_size=options.batch_size or preset.batch_size,
        max_lr=options.lr or preset.max_lr,
    )
    if options.init == "random" and not options.trainable:
        choices = replace(choices, trainable="all")
    if choices.init == "random" and choices.trainable == "shared":
        raise InputError("a shared row improves on the classifier's own rows: expected --init classifier, got random")
    return choices


def _build(choices: Preset, options: TrainOptions, classifier: FrozenClassifier) -> ExplainedClassifier:
    """Build the mechanism at random, refusing one that cannot start as chosen."""
    attention = build_attention(
        options.attention, classifier.channels, classifier.spec.num_classes, choices.output_size
    )
    if choices.init == "classifier" and not (isinstance(attention, TAME) and attention.skip and len(attention.bns)):
        raise InputError(
            f"{options.attention} cannot start from the classifier, which needs skip connections and batch norm: "
            "use --init random"
        )
    return ExplainedClassifier(classifier, attention).to(classifier.mean.device)


def _start(model: ExplainedClassifier, choices: Preset, options: TrainOptions, lists: TrainingLists) -> None:
    """Start the mechanism from the classifier's answers to some training images, where it does not start at random."""
    if choices.init == "random":
        return
    classifier, attention = model.classifier, cast(TAME, model.attention)  # checked in _build
    entries = draw(lists.train, options.init_images, options.seed)
    images = ImageListDataset(entries, Crop.of(classifier.spec.preprocessing))
    loader = image_loader(images, _INIT_BATCH, options.num_workers)
    batches = [batch["image"].to(classifier.mean.device) for batch in loader]
    gradients = class_gradients(classifier, batches)
    logger.info("Initialised from the classifier at %s.", classifier.layers[gradients.branch])
    with torch.no_grad():
        outputs = [classifier(images) for images in batches]
    features = [torch.cat(maps) for maps in zip(*(output.features for output in outputs), strict=True)]
    targets = torch.cat([output.logits for output in outputs]).argmax(1)
    initialise_from_gradients(attention, gradients.rows, gradients.branch, features, targets)
    if choices.trainable == "shared" and choices.epochs:
        share_row(attention, features)


def find_lists(options: TrainOptions, num_classes: int) -> TrainingLists:
    """Find the images to train and validate on.

    Raises:
        InputError: For a missing folder, list or image, or a bad line.
    """
    folders = resolve_folders(options.data)
    train_file = resolve_list(options.train_list, options.lists, "train.txt")
    train = read_list(train_file, folders.train, num_classes) if train_file else walk_images(folders.train)
    val_file = resolve_list(options.val_list, options.lists, "Validation.txt")
    if val_file:
        val, val_root = read_list(val_file, folders.val, num_classes), folders.val
    else:
        (train, val), val_root = split_validation(train, seed=options.seed), folders.train
        logger.info("No validation list: %d of %d images were split off.", len(val), len(train) + len(val))
    train = draw(draw_per_label(train, options.per_label, options.seed), options.limit_images, options.seed)
    return TrainingLists(train, draw(val, options.limit_val_images, options.seed), folders.train, val_root)


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


def _data(
    choices: Preset, options: TrainOptions, classifier: FrozenClassifier, lists: TrainingLists
) -> ImageListDataModule:
    crop: Any = _RELEASED_CROP[classifier.spec.masking] if choices.crop == "released" else choices.crop
    return ImageListDataModule(
        lists.train,
        lists.val,
        classifier.spec.preprocessing,
        crop=crop,
        batch_size=choices.batch_size,
        num_workers=options.num_workers,
        seed=options.seed,
    )


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
