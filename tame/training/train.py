"""Train an attention mechanism: resolve the arguments, build, fit, save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from tame.checkpoints.classifier import DEFAULT_BACKBONE
from tame.classifier import FrozenClassifier
from tame.training.build import build
from tame.training.fit import fit
from tame.training.folder import run_folder
from tame.training.images import TrainingImages
from tame.training.loggers import LoggerName
from tame.training.plan import Hardware, Output, Strategy, resolve
from tame.training.recipe import InitKind, Recipe, TrainableKind
from tame.training.save import TrainedRun, save
from tame.types import LossForm, MaskingKind, Precision


def train(
    classifier: FrozenClassifier | nn.Module | str | Path = DEFAULT_BACKBONE,
    *,
    data: str | Path | Dataset[Any] | DataLoader[Any] | None = None,
    lists: str | Path | None = None,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    per_label: int | None = None,
    limit_images: int | None = None,
    limit_val_images: int | None = None,
    max_bad_images: float = 0.01,
    preset: str = "tame",
    attention: str | None = None,
    init: InitKind | None = None,
    init_images: int = 16,
    trainable: TrainableKind | None = None,
    loss: LossForm | None = None,
    masking: MaskingKind | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    clip: float | None = None,
    devices: int = 1,
    num_nodes: int = 1,
    strategy: Strategy = "auto",
    precision: Precision = "auto",
    num_workers: int = 0,
    seed: int = 0,
    normalised: bool = False,
    out: str | Path | None = None,
    logger: Sequence[LoggerName] = ("csv", "tensorboard"),
    resume: bool = True,
    progress: bool = True,
) -> TrainedRun:
    """Train an attention mechanism that explains a classifier; the classifier itself does not change.

    After each epoch AD and IC are measured on the validation images; the epoch with the smallest AD of half of the
    pixels (``val/rank/AD_50``) is the best one. The folder of the run contains the mechanism of the best epoch
    (``attention.safetensors``, ``metadata.json``), that of the last epoch (``last/``), Lightning's checkpoints
    (``lightning/``), logs and pictures of three explanations (``logs/``), the course of loss, AD and IC
    (``training.png``), the image lists (``train.txt``, ``validation.txt``), and ``config.json``: the
    arguments that repeat the run.

    A Dataset returns an image, ``(image, label)``, or a dict with ``image``, by index. PIL images and uint8 are resized
    and cropped; float tensors (C, H, W) of the classifier's input size are used as they are. Of a DataLoader the
    dataset, the collate function and the indices of a `SubsetRandomSampler` are used, not the batches. A tenth of the
    images, drawn by seed, is for validation; ``train.txt`` and ``validation.txt`` list their indices.
    Of the dataset of an interrupted run only type and length are compared when it is resumed.

    Args:
        classifier: The classifier: frozen, a trained network, or a name (see `tame.load_classifier`). It is trained on
            the device of the classifier.
        data: ImageNet root (with ILSVRC2012_img_train and ILSVRC2012_img_val) or any folder of images; default: DATA
            of the environment or of .env. In Python also a Dataset or DataLoader.
        lists: Folder of image lists; default: LIST of the environment or of .env.
        train_list: List of training images, a path or a name in lists; default: train.txt there, otherwise every image
            of the training folder.
        val_list: List of validation images; default: Validation.txt in lists, otherwise 10 % of the training images,
            drawn by seed.
        per_label: Largest number of training images of each label; default: all.
        limit_images: Number of training images, drawn by seed; default: all.
        limit_val_images: Number of validation images, drawn by seed; default: all.
        max_bad_images: Largest fraction of the training images, and of the validation images, that may be unreadable,
            rounded up to whole images. They are named and left out; more end the run.
        preset: Preset of all choices that are not made here: paper, released or tame (see `tame list presets`).
        attention: Attention mechanism (see `tame list attention`); an L-CAM reads one layer, the last of the preset's
            layer set unless layers are named; default: T-TAME, in the preset's form for the kind of classifier.
        init: Initialisation of the mechanism: random, or from the classifier's gradients; default: the preset's.
        init_images: Number of training images to initialise from the classifier with.
        trainable: Trained part: all of the mechanism, or one fusion row that all classes share; default: the preset's.
        loss: Loss: cross-entropy with area and variation in the form of the paper or of the released program, ranked
            (masks of a given area), or cross-entropy alone; default: the preset's.
        masking: Masking of the images that are classified again: cnn or vit; default: the backbone's.
        epochs: Passes over the training images; 0 writes the initialised mechanism; default: the preset's.
        batch_size: Images per optimiser step; default: the preset's.
        lr: Peak learning rate of the one-cycle schedule; default: the preset's.
        clip: Largest norm of the gradient; default: no clipping.
        devices: Number of devices.
        num_nodes: Number of nodes.
        strategy: How several devices train together: auto, or Lightning's ddp or ddp_fork.
        precision: auto (16-mixed on CUDA, otherwise 32), 32, 16-mixed or bf16-mixed.
        num_workers: Worker processes that load images; 0 loads them in the main process.
        seed: Seed of everything random.
        normalised: Whether the float tensors of a Dataset or DataLoader are normalised by the classifier's mean and
            std; otherwise they are in [0, 1].
        out: Folder of the run; default: runs/BACKBONE.
        logger: Loggers: csv and tensorboard write into the folder of the run; wandb and mlflow need their packages, and
            are configured by their environment variables; none logs nothing.
        resume: Resume an interrupted run in that folder, and refuse to overwrite a finished one; false starts over.
        progress: Whether a progress bar is shown.

    Returns:
        The folder of the run (a checkpoint), the trained explainer (a method of `tame.explain`), and its validation
        metrics.

    Raises:
        InputError: For anything that cannot be used, before training starts; for a loss that becomes infinite or NaN.

    Example:
        >>> import tempfile, torch, tame
        >>> from torch import nn
        >>> photos = Path(tame.__file__).parent / "assets"
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = tame.FrozenClassifier.from_module(net, ["1"], classes=["cat", "dog"])
        >>> run = tame.train(classifier, data=photos, epochs=0, out=tempfile.mkdtemp())
        >>> run.explainer(torch.rand(1, 3, 224, 224), torch.tensor([1])).shape
        torch.Size([1, 222, 222])
        >>> images = torch.utils.data.TensorDataset(torch.rand(4, 3, 224, 224))
        >>> run = tame.train(classifier, data=images, epochs=0, out=tempfile.mkdtemp())
        >>> tame.explain(torch.rand(3, 224, 224), classifier, "dog", method=run.explainer).map.shape
        (222, 222)
    """
    images = TrainingImages(
        data=data,
        normalised=normalised,
        lists=lists,
        train_list=train_list,
        val_list=val_list,
        per_label=per_label,
        limit_images=limit_images,
        limit_val_images=limit_val_images,
        max_bad_images=max_bad_images,
    )
    recipe = Recipe(
        preset=preset,
        attention=attention,
        init=init,
        init_images=init_images,
        trainable=trainable,
        loss=loss,
        masking=masking,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        clip=clip,
    )
    hardware = Hardware(
        devices=devices, num_nodes=num_nodes, strategy=strategy, precision=precision, num_workers=num_workers
    )
    plan = resolve(classifier, images, recipe, hardware, seed, Output(out, resume, logger, progress))
    training = build(plan)
    with run_folder(plan):
        return save(training, fit(training))
