"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args


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


def names_in(option: str, text: str, known: Any = None) -> tuple[Any, ...]:
    """Return the names in ``text``, each once, and one of the literal type ``known`` where there is one."""
    from tame.utils.checks import InputError

    names, allowed = tuple(name.strip() for name in text.split(",") if name.strip()), get_args(known)
    if not names or len(set(names)) < len(names) or (allowed and not set(names) <= set(allowed)):
        what = ", ".join(allowed) or "different names"
        raise InputError(f"expected {option} of {what}, separated by commas, got {text!r}")
    return names
