"""From options to what training needs: choices, classifier and mechanism, images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from lightning import seed_everything

from tame.attention import LCAM_FORMS, build_attention
from tame.attention.initialise import can_start_from_classifier, initialise_from_gradients
from tame.attention.model import ExplainedClassifier
from tame.attention.shared import share_row
from tame.backbones import load_backbone
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.gradients import class_gradients
from tame.data import (
    Crop,
    ImageEntry,
    ImageListDataset,
    draw,
    draw_per_label,
    read_list,
    resolve_folders,
    resolve_list,
    split_validation,
    walk_images,
)
from tame.data.datamodule import ImageListDataModule, image_loader
from tame.options import TrainOptions
from tame.presets import PRESETS, Preset
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

_INIT_BATCH = 16
_RELEASED_CROP = {"cnn": "centre", "vit": "random-flip"}
_LCAM_MAX_LR = 1e-3
_Options = TypeVar("_Options", bound=TrainOptions)


@dataclass(frozen=True)
class TrainingLists:
    """The images of a run: training and validation entries, and the folders their paths start from."""

    train: Sequence[ImageEntry]
    val: Sequence[ImageEntry]
    train_root: Path
    val_root: Path


class TrainingSetup(NamedTuple):
    """What a run trains, on which images; the mechanism is random until `start`."""

    choices: Preset
    model: ExplainedClassifier
    lists: TrainingLists
    data: ImageListDataModule


def set_up(options: TrainOptions, spec: BackboneSpec, device: str) -> TrainingSetup:
    """Seed, load the classifier, build the mechanism and find the images.

    Raises:
        InputError: For anything that cannot be used.
    """
    choices = resolve_choices(options, tokens=spec.tokens is not None)
    seed_everything(options.seed, verbose=False)
    classifier = _load_classifier(choices, options, spec).to(device)
    model = _build(choices, options, classifier)
    lists = find_lists(options, classifier.spec.num_classes)
    return TrainingSetup(choices, model, lists, _data(choices, options, classifier, lists))


def with_attention(options: _Options, spec: BackboneSpec) -> _Options:
    """Return the options with the preset's attention mechanism for this kind of classifier, if they name none."""
    usual = PRESETS.get(options.preset).token_attention if spec.tokens else "ttame"
    return replace(options, attention=options.attention or usual)


def resolve_choices(options: TrainOptions, tokens: bool = False) -> Preset:
    """Return the preset with the options' own choices in place.

    Args:
        options: What the command line says.
        tokens: Whether the features are tokens: the row that classes share then has further to go.

    Raises:
        InputError: For choices that contradict each other.
    """
    preset = _preset(options)
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
    if choices.trainable == "shared" and tokens and not options.lr:
        choices = replace(choices, max_lr=preset.token_max_lr)
    return choices


def _preset(options: TrainOptions) -> Preset:
    """Return the preset; an L-CAM has no row to share, and the loss of its paper in the place of the ranked one."""
    preset = PRESETS.get(options.preset)
    form = LCAM_FORMS.get(options.attention)
    if form is None:
        return preset
    if options.trainable == "shared":
        raise InputError(f"a shared row is T-TAME's: expected --trainable all for {options.attention}, got shared")
    if form.cross_entropy_only and options.loss not in ("", "cross-entropy"):
        raise InputError(f"{options.attention} is trained with the cross-entropy alone, got --loss {options.loss}")
    if form.masks == "features" and options.masking:
        raise InputError(f"{options.attention} masks features, no images: expected no --masking, got {options.masking}")
    if preset.trainable == "shared":
        preset = replace(preset, trainable="all", loss="released", max_lr=_LCAM_MAX_LR)
    return replace(preset, loss="cross-entropy") if form.cross_entropy_only else preset


def _load_classifier(choices: Preset, options: TrainOptions, spec: BackboneSpec) -> FrozenClassifier:
    """Load the classifier with the layers asked for; an L-CAM reads the last of the preset's."""
    classifier = load_backbone(spec, options.weights, options.layers or choices.layers)
    if options.attention not in LCAM_FORMS or options.layers:
        return classifier
    layer = classifier.layers[-1]
    logger.info("%s reads %s, the last of the preset's layers; --layers names another.", options.attention, layer)
    return classifier.with_layers([layer])


def _build(choices: Preset, options: TrainOptions, classifier: FrozenClassifier) -> ExplainedClassifier:
    """Build the mechanism at random, refusing one that cannot start as chosen."""
    attention = build_attention(
        options.attention, classifier.channels, classifier.spec.num_classes, choices.output_size
    )
    if choices.init == "classifier" and not can_start_from_classifier(attention):
        raise InputError(
            f"{options.attention} cannot start from the classifier, which needs skip connections and batch norm: "
            "use --init random"
        )
    model = ExplainedClassifier(classifier, attention).to(classifier.mean.device)
    if attention.masks == "features":
        _check_masks_count(model)
    return model


def _check_masks_count(model: ExplainedClassifier) -> None:
    """Refuse features whose mask cannot change the logits, as patches after a transformer's last block."""
    shape = (1, *model.classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(model.classifier.mean)
    masks = torch.ones_like(model.maps(images, torch.tensor([0], device=images.device))).requires_grad_()
    (gradient,) = torch.autograd.grad(model.masked_logits(images, masks).square().sum(), masks)
    if not gradient.any():
        raise InputError(
            f"the positions of {model.classifier.layers[0]} do not reach the logits, and a mask of them changes "
            "nothing: name an earlier layer with --layers"
        )


def start(setup: TrainingSetup, options: TrainOptions) -> None:
    """Start the mechanism from the classifier's answers to some training images, where it does not start at random."""
    choices, model = setup.choices, setup.model
    if choices.init == "random":
        return
    classifier, attention = model.classifier, cast(Any, model.attention)  # checked in _build
    entries = draw(setup.lists.train, options.init_images, options.seed)
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
