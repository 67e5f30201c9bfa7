"""What every command can be told: typed options, free of heavy imports.

The same word means the same in every command. An empty string means "the default, worked out later".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tame.types import LossForm, MapScaling, MaskingKind, MetricName


@dataclass
class CommonOptions:
    """Options shared by all commands.

    Args:
        backbone: The classifier: a name of `tame list backbones`, timm:NAME, package.module:function that returns an
            nn.Module, or a spec file (.toml, .yaml, .json).
        weights: Name of published weights, path of a state_dict, or "random"; empty: the first published ones.
        num_classes: Number of classes, where it is not the usual.
        class_names: File of class names, one per line, or "imagenet".
        input_size: Side of the classifier's input in pixels, or HEIGHTxWIDTH; empty: the usual.
        mean: Mean per channel of images in [0, 1], separated by commas; empty: the usual.
        std: Standard deviation per channel, likewise.
        layers: Feature layers: a tap set (paper, released, proposed) or module names separated by commas;
            empty: the preset's set.
        preset: paper, released or tame, see `tame list presets`.
        device: auto (CUDA where there is one, else the CPU), cpu, cuda or mps.
        precision: auto (16-mixed for training on CUDA, else 32), 32, 16-mixed or bf16-mixed.
        seed: Seed of everything random.
        num_workers: Processes that read images; 0 reads in the main process.
        resume: Continue what an interrupted run of the same command left in --out; false starts over.
    """

    backbone: str = "efficientnet_lite0"
    weights: str = ""
    num_classes: int = 0
    class_names: str = ""
    input_size: str = ""
    mean: str = ""
    std: str = ""
    layers: str = ""
    preset: str = "tame"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed"] = "auto"
    seed: int = 0
    num_workers: int = 2
    resume: bool = True


@dataclass
class DataOptions:
    """Where images are and which of them count.

    Args:
        data: ImageNet root (with ILSVRC2012_img_train and ILSVRC2012_img_val) or any folder of images;
            empty: DATA of the environment or of .env.
        lists: Folder of image lists; empty: LIST of the environment or of .env.
        limit_images: Use this many images only, drawn by seed; 0: all.
    """

    data: str = ""
    lists: str = ""
    limit_images: int = 0


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


@dataclass
class MethodOptions:
    """Which explanation method, and what it needs.

    Args:
        method: Explanation method, see `tame list methods`.
        checkpoint: Trained attention mechanism, a folder or file; empty: the one shipped for the backbone.
        cam_layer: Layer that the CAM methods explain; empty: the backbone's last activated convolution.
        rise_masks: Random masks per image of RISE; 0: as many as published, 8000.
        preset: paper, released or tame, see `tame list presets`.
    """

    method: str = "ttame"
    checkpoint: str = ""
    cam_layer: str = ""
    rise_masks: int = 0
    preset: str = "tame"


@dataclass
class EvaluateOptions(MethodOptions, DataOptions, CommonOptions):
    """Measure an explanation method.

    Args:
        list: List of images, a path or a name in --lists; empty: Evaluation.txt there, else every image of
            the validation folder.
        maps: Folder of maps made elsewhere, DIR/n01440764/x.npy or DIR/x.npy of the image n01440764/x.JPEG, in place
            of a method.
        metrics: Metrics separated by commas, see `tame list metrics`.
        map_scaling: Readings of the maps for AD and IC, separated by commas: minmax, rank.
        masking: Masking of the images for AD and IC: the backbone's own, cnn or vit; empty: the preset's.
        steps: Steps of insertion and deletion.
        only: correct: images that the classifier gets wrong do not count.
        batch_size: Images per batch.
        pass_rows: Perturbed images per pass through the classifier; 0: as many as fit.
        devices: Number of devices, or of processes on the CPU.
        num_nodes: Number of machines.
        out: Folder of the results; empty: evaluations/BACKBONE/METHOD.
    """

    list: str = ""
    maps: str = ""
    metrics: str = "ad-ic"
    map_scaling: str = "minmax,rank"
    masking: Literal["", "backbone", MaskingKind] = ""
    steps: int = 28
    only: Literal["all", "correct"] = "all"
    batch_size: int = 32
    pass_rows: int = 0
    devices: int = 1
    num_nodes: int = 1
    out: str = ""

    def asked_metrics(self) -> tuple[MetricName, ...]:
        """Return the asked metrics, checked."""
        return _chosen("--metrics", self.metrics, MetricName)

    def scalings(self) -> tuple[MapScaling, ...]:
        """Return the asked readings, checked."""
        return _chosen("--map-scaling", self.map_scaling, MapScaling)


def _chosen(option: str, text: str, known: Any = None) -> tuple[Any, ...]:
    """Return the names in ``text``, each once, and one of the literal type ``known`` where there is one."""
    from tame.checks import InputError

    names, allowed = tuple(name.strip() for name in text.split(",") if name.strip()), get_args(known)
    if not names or len(set(names)) < len(names) or (allowed and not set(names) <= set(allowed)):
        what = ", ".join(allowed) or "different names"
        raise InputError(f"expected {option} of {what}, separated by commas, got {text!r}")
    return names


@dataclass
class CompareOptions(EvaluateOptions):
    """Measure several explanation methods on one classifier, and put them beside each other.

    Args:
        methods: Methods separated by commas, see `tame list methods`; ttame@FOLDER names a checkpoint.
        reference: Method to compare the others with, by paired bootstrap; empty: ttame, if it is among them.
        report: Folder for report.html, one page with tables, curves and explanations to look at; empty: none.
        report_images: Images to look at on that page.
        out: Folder of the results, one folder per method in it; empty: comparisons/BACKBONE.
    """

    methods: str = "ttame,gradcam,gradcam++,scorecam,ablationcam,rise,iia,centre,random,all_ones,fake_cam"
    reference: str = ""
    report: str = ""
    report_images: int = 12

    def asked_methods(self) -> tuple[str, ...]:
        """Return the asked methods, each with its checkpoint where it has one."""
        return _chosen("--methods", self.methods)


@dataclass
class ExplainOptions(MethodOptions, CommonOptions):
    """Explain photographs.

    Args:
        backbone: Classifiers separated by commas, see `tame list backbones`; several are compared.
        method: Explanation methods separated by commas, see `tame list methods`; ttame@FOLDER names a checkpoint.
            Several are compared in grids, and each writes to a folder of its own.
        checkpoint: Trained attention mechanism, a folder or file; several backbones: one of each, separated by commas;
            empty: the one shipped for the backbone.
        images: Image files or folders of images; none: two bundled photographs.
        target: Classes to explain, indices or names; empty: the best ones.
        top: Explain this many of the best classes, side by side.
        batch_size: Images per batch.
        out: Folder of the overlays, maps and manifest.json.
    """

    images: list[str] = field(default_factory=list)
    target: list[str] = field(default_factory=list)
    top: int = 1
    batch_size: int = 8
    out: str = "explanations"

    def backbones(self) -> tuple[str, ...]:
        """Return the asked backbones."""
        return _chosen("--backbone", self.backbone)

    def methods(self) -> tuple[str, ...]:
        """Return the asked methods."""
        return _chosen("--method", self.method)


@dataclass
class ImportOptions:
    """Turn a checkpoint of the authors' programs into one of ours.

    Args:
        file: The file: T-TAME's .ckpt, or a snapshot of TAME or L-CAM. It is recognised by what is in it.
        backbone: The classifier it was trained for, as in the other commands; empty: the one that the file names.
        weights: Weights of the classifier, as in the other commands. Those in the file are compared with them.
        layers: Feature layers, module names separated by commas; empty: those in the file, else the released ones.
        out: Folder of the checkpoint; empty: beside the file, its name with -explainer in the place of the suffix.
    """

    file: list[str] = field(default_factory=list)
    backbone: str = ""
    weights: str = ""
    layers: str = ""
    out: str = ""


@dataclass
class InspectOptions(CommonOptions):
    """Show the layers of a classifier, and propose feature layers.

    Args:
        model: The classifier, as --backbone of the other commands names it.
        weights: As in the other commands, but random by default: nothing is downloaded to look at layers.
        all: Every layer, also those inside blocks and those without maps or tokens.
    """

    model: list[str] = field(default_factory=list)
    weights: str = "random"
    all: bool = False


@dataclass
class TableOptions:
    """Put finished evaluations of the same images beside each other.

    Args:
        runs: Folders of evaluations, in the order of the rows.
        reference: Method or folder to compare with, by paired bootstrap; empty: no comparison.
        format: markdown, latex (needs booktabs) or csv.
        out: File to write; empty: print.
        curves: Draw the ROAD curves here, as PNG and PDF.
        seed: Seed of the bootstrap.
    """

    runs: list[str] = field(default_factory=list)
    reference: str = ""
    format: Literal["markdown", "latex", "csv"] = "markdown"
    out: str = ""
    curves: str = ""
    seed: int = 0


@dataclass
class ListOptions:
    """List what can be named in the other commands.

    Args:
        kinds: backbones, methods, metrics, presets or attention; none: all of them.
    """

    kinds: list[str] = field(default_factory=list)
