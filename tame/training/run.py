"""From options to a trained explainer on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from tame.attention import build_attention
from tame.attention.initialise import initialise_from_classifier
from tame.backbones import FrozenClassifier, load_backbone
from tame.checkpoint import TENSORS, save_attention
from tame.checks import InputError
from tame.data import (
    ImageEntry,
    draw,
    list_hash,
    read_list,
    resolve_folders,
    resolve_list,
    split_validation,
    walk_images,
    write_list,
)
from tame.data.datamodule import ImageListDataModule
from tame.devices import resolve_device, resolve_precision
from tame.loss import AttentionLoss
from tame.model import ExplainedClassifier
from tame.options import TrainOptions
from tame.presets import PRESETS, Preset
from tame.training.module import AttentionModule

logger = logging.getLogger("tame")

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
    preset = PRESETS.get(options.preset)
    device = resolve_device(options.device)
    out = Path(options.out or f"runs/{options.backbone}")
    resume_from = _resume_from(out, options.resume)
    classifier = load_backbone(options.backbone, options.weights, options.layers or preset.layers)
    lists = find_lists(options, classifier.spec.num_classes)
    seed_everything(options.seed, verbose=False)
    out.mkdir(parents=True, exist_ok=True)
    write_list(out / "train.txt", lists.train, lists.train_root)
    write_list(out / "validation.txt", lists.val, lists.val_root)
    data = _data(options, preset, classifier, lists)
    model = ExplainedClassifier(
        classifier,
        build_attention(options.attention, classifier.channels, classifier.spec.num_classes, preset.output_size),
    )
    init = options.init or preset.init
    started = time.monotonic()
    if init == "classifier" and resume_from is None:
        initialise_from_classifier(
            model.attention, classifier.to(device), _init_images(data, options.init_images, device)
        )
    details = _details(options, preset, classifier, lists)
    epochs = preset.epochs if options.epochs < 0 else options.epochs
    if epochs == 0:
        return save_attention(out, model, details | {"epochs": 0, "seconds": time.monotonic() - started})
    module = AttentionModule(
        model,
        AttentionLoss(options.loss or preset.loss),
        max_lr=options.lr or preset.max_lr,
        other_classes=preset.other_classes,
        masking=options.masking or None,
    )
    best = ModelCheckpoint(out / "lightning", "best", monitor=monitor, mode="min", save_last=True)
    trainer = Trainer(
        accelerator={"cpu": "cpu", "cuda": "cuda", "mps": "mps"}[device],
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=resolve_precision(options.precision, device, training=True),  # type: ignore[arg-type] # checked
        max_epochs=epochs,
        gradient_clip_val=options.clip or None,
        callbacks=[best, LearningRateMonitor("step"), *callbacks],
        logger=[CSVLogger(out, "", "logs"), TensorBoardLogger(out, "", "logs")],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
    )
    trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    if trainer.is_global_zero and not trainer.interrupted:
        _save(out, model, trainer, best, details | {"epochs": epochs, "seconds": time.monotonic() - started})
    return out


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
    train = draw(train, options.limit_images, options.seed)
    return TrainingLists(train, draw(val, options.limit_val_images, options.seed), folders.train, val_root)


def _resume_from(out: Path, resume: bool) -> str | None:
    """Return the Lightning checkpoint to continue from, None to start anew."""
    last = out / "lightning" / "last.ckpt"
    if (out / TENSORS).is_file() and resume:
        raise InputError(f"{out} holds a finished explainer: give another --out, or --resume false to overwrite it")
    if not (resume and last.is_file()):
        return None
    logger.info("Continuing from %s.", last)
    return str(last)


def _data(
    options: TrainOptions, preset: Preset, classifier: FrozenClassifier, lists: TrainingLists
) -> ImageListDataModule:
    crop: Any = _RELEASED_CROP[classifier.spec.masking] if preset.crop == "released" else preset.crop
    return ImageListDataModule(
        lists.train,
        lists.val,
        classifier.spec.preprocessing,
        crop=crop,
        batch_size=options.batch_size or preset.batch_size,
        num_workers=options.num_workers,
        seed=options.seed,
    )


def _details(
    options: TrainOptions, preset: Preset, classifier: FrozenClassifier, lists: TrainingLists
) -> dict[str, Any]:
    """Return the provenance of a run that is known before it starts."""
    return {
        "attention": options.attention,
        "output_size": preset.output_size,
        "preset": options.preset,
        "init": options.init or preset.init,
        "loss": options.loss or preset.loss,
        "max_lr": options.lr or preset.max_lr,
        "batch_size": options.batch_size or preset.batch_size,
        "masking": options.masking or classifier.spec.masking,
        "images": len(lists.train),
        "train_list_sha256": list_hash(lists.train, lists.train_root),
        "val_list_sha256": list_hash(lists.val, lists.val_root),
        "options": asdict(options),
    }
