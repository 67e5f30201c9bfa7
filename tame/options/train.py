"""What the commands that train can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tame.options.common import CommonOptions, DataOptions
from tame.types import LossForm, MaskingKind


@dataclass
class TrainOptions(DataOptions, CommonOptions):
    """Train an attention mechanism.

    Args:
        train_list: List of training images, a path or a name in --lists; empty: train.txt there, else every
            image of the training folder.
        val_list: List of validation images; empty: Validation.txt of --lists, else 10 % of the training images,
            drawn by seed and written down.
        per_label: Train on at most this many images of each label of the list; 0: all.
        limit_val_images: Validate on this many images only; 0: all.
        out: Folder of the run; empty: runs/BACKBONE.
        attention: Attention mechanism, see `tame list attention`; empty: T-TAME, in the preset's form for the kind of
            classifier. An L-CAM reads one layer, the last of the preset's unless --layers names another.
        init: random, or from the classifier itself; empty: the preset's.
        init_images: Training images that initialise from the classifier.
        trainable: all of the mechanism, or one fusion row shared by all classes; empty: the preset's.
        loss: Form of the area and variation terms, ranked (masks of a given area), or the cross-entropy alone; empty:
            the preset's.
        masking: Masking of the second pass; empty: the backbone's own.
        epochs: Passes over the training images; 0 writes the initialisation as it is; -1: the preset's.
        batch_size: Images per step; 0: the preset's.
        lr: Peak learning rate of the one-cycle schedule; 0: the preset's.
        clip: Largest norm of the gradient; 0: no clipping.
        devices: Number of devices.
        num_nodes: Number of machines.
        strategy: Lightning's strategy (auto, ddp, ...).
    """

    train_list: str = ""
    val_list: str = ""
    per_label: int = 0
    limit_val_images: int = 0
    out: str = ""
    attention: str = ""
    init: Literal["", "random", "classifier"] = ""
    init_images: int = 16
    trainable: Literal["", "all", "shared"] = ""
    loss: Literal["", LossForm] = ""
    masking: Literal["", MaskingKind] = ""
    epochs: int = -1
    batch_size: int = 0
    lr: float = 0.0
    clip: float = 0.0
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"


@dataclass
class LrFindOptions(TrainOptions):
    """Test learning rates for a training run: train with a rate that grows at each step, from the start of that run.

    Args:
        min_lr: Learning rate of the first step. The training's own --lr, --epochs, --resume, --devices and validation
            images do not matter here.
        max_lr: Learning rate of the last step.
        steps: Steps between them; a loss that explodes ends the test.
        out: Folder of lr_find.csv and lr_find.png; empty: runs/BACKBONE-lr-find.
    """

    min_lr: float = 1e-5
    max_lr: float = 10.0
    steps: int = 100
