"""Build what a plan trains: classifier and mechanism, images, and the mechanism's start."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import seed_everything

from tame.attention import build_attention
from tame.attention.initialise import can_start_from_classifier, initialise_from_gradients
from tame.attention.model import ExplainedClassifier
from tame.attention.shared import share_row
from tame.classifier.gradients import class_gradients
from tame.data import Batch, draw
from tame.data.datamodule import ImageListDataModule, image_loader
from tame.data.readable import ReadableImages
from tame.data.user_images import open_images
from tame.training.plan import TrainingPlan
from tame.training.unreadable import UnreadableImages
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

_INIT_BATCH = 16
_RELEASED_CROP = {"cnn": "centre", "vit": "random-flip"}


@dataclass(frozen=True)
class Training:
    """A run that is ready to train.

    Attributes:
        plan: What was decided.
        model: The classifier and the mechanism, which is initialised.
        data: The images.
        unreadable: Those that cannot be read.
        started: When it was begun, see `time.monotonic`.
    """

    plan: TrainingPlan
    model: ExplainedClassifier
    data: ImageListDataModule
    unreadable: UnreadableImages
    started: float

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.plan.choices.epochs * self.data.steps_per_epoch(self.plan.hardware.processes)


def build(plan: TrainingPlan) -> Training:
    """Build and initialise what a plan trains; nothing is written.

    Raises:
        InputError: For a mechanism that does not fit the classifier or cannot start as planned, or too many images that
            cannot be read.
    """
    started = time.monotonic()
    model = _build_model(plan)
    data = _build_data(plan)
    unreadable = UnreadableImages(len(plan.lists.train), len(plan.lists.val), plan.max_bad_images)
    if plan.choices.init == "classifier":
        _initialise(model, plan, unreadable)
    return Training(plan, model, data, unreadable, started)


def _build_model(plan: TrainingPlan) -> ExplainedClassifier:
    """Build the mechanism with random weights."""
    classifier, choices = plan.classifier, plan.choices
    seed_everything(plan.seed, verbose=False)
    # The mechanism's weights are drawn after those of an untrained classifier, which is not used. Runs of earlier
    # versions loaded the classifier here, and the same seed still gives the same mechanism.
    classifier.spec.build()
    attention = build_attention(plan.attention, classifier.channels, classifier.spec.num_classes, choices.output_size)
    if choices.init == "classifier" and not can_start_from_classifier(attention):
        raise InputError(
            f"{plan.attention} cannot start from the classifier, which needs skip connections and batch norm: "
            "use init random"
        )
    model = ExplainedClassifier(classifier, attention).to(plan.device)
    if attention.masks == "features":
        _check_masks_count(model)
    return model


def _check_masks_count(model: ExplainedClassifier) -> None:
    """Refuse features whose mask cannot change the logits, such as patches after a transformer's last block."""
    shape = (1, *model.classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(model.classifier.mean)
    masks = torch.ones_like(model.maps(images, torch.tensor([0], device=images.device))).requires_grad_()
    (gradient,) = torch.autograd.grad(model.masked_logits(images, masks).square().sum(), masks)
    if not gradient.any():
        raise InputError(
            f"the positions of {model.classifier.layers[0]} do not reach the logits, so masking them changes nothing: "
            "name an earlier layer as layers"
        )


def _build_data(plan: TrainingPlan) -> ImageListDataModule:
    spec, choices = plan.classifier.spec, plan.choices
    crop: Any = _RELEASED_CROP[spec.masking] if choices.crop == "released" else choices.crop
    return ImageListDataModule(
        plan.lists.train,
        plan.lists.val,
        spec.preprocessing,
        crop=crop,
        batch_size=choices.batch_size,
        num_workers=plan.hardware.num_workers,
        seed=plan.seed,
        user_images=plan.lists.user_images,
    )


def _initialise(model: ExplainedClassifier, plan: TrainingPlan, unreadable: UnreadableImages) -> None:
    """Initialise the mechanism from the classifier's logits and gradients on some training images."""
    classifier, attention = model.classifier, cast(Any, model.attention)  # checked in _build_model
    entries = draw(plan.lists.train, plan.init_images, plan.seed)
    images = ReadableImages(open_images(entries, classifier.spec.preprocessing, user_images=plan.lists.user_images))
    batches = []
    for batch in cast(Iterable[Batch], image_loader(images, _INIT_BATCH, plan.hardware.num_workers)):
        unreadable.note("training", batch)
        if len(batch["image"]):
            batches.append(batch["image"].to(plan.device))
    if not batches:
        raise InputError(f"none of the {len(entries)} images to initialise with can be read: use more init_images")
    gradients = class_gradients(classifier, batches)
    logger.info("Initialised from the classifier at %s.", classifier.layers[gradients.branch])
    with torch.no_grad():
        outputs = [classifier(images) for images in batches]
    features = [torch.cat(maps) for maps in zip(*(output.features for output in outputs), strict=True)]
    targets = torch.cat([output.logits for output in outputs]).argmax(1)
    initialise_from_gradients(attention, gradients.rows, gradients.branch, features, targets)
    if plan.choices.trainable == "shared" and plan.choices.epochs:
        share_row(attention, features)
