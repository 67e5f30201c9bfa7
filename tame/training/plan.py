"""The plan of a training run: everything that is decided before anything is built or written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from tame.attention import LCAM_FORMS
from tame.checkpoints.classifier import as_classifier, load_classifier
from tame.checkpoints.native import TENSORS, describe
from tame.classifier import FrozenClassifier
from tame.presets import Preset
from tame.training.images import TrainingImages, TrainingLists
from tame.training.loggers import LoggerName, check_loggers
from tame.training.recipe import Recipe
from tame.types import Precision
from tame.utils.checks import InputError
from tame.utils.devices import resolve_precision
from tame.utils.io import folder_name
from tame.utils.limits import check_numbers

logger = logging.getLogger("tame")

TRAIN_LIST, VAL_LIST = "train.txt", "validation.txt"
"""The lists of images that a run writes."""


Strategy = Literal["auto", "ddp", "ddp_fork"]


@dataclass(frozen=True)
class Hardware:
    """What a run computes on, besides the classifier's device. See `tame.train` for the fields.

    Raises:
        InputError: For a number out of range, or an unknown word.
    """

    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "auto"
    precision: Precision = "auto"
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_numbers(**asdict(self))
        for name, known in {"strategy": Strategy, "precision": Precision}.items():
            if (word := getattr(self, name)) not in get_args(known):
                raise InputError(f"expected {name} {' or '.join(get_args(known))}, got {word!r}")

    def check_on(self, device: str) -> None:
        """Check that it can compute on a kind of device.

        Raises:
            InputError: If it has too few devices, or cannot compute in this precision.
        """
        resolve_precision(self.precision, device, training=True)
        if device == "cuda" and self.devices > (found := torch.cuda.device_count()):
            raise InputError(f"expected devices of at most {found}, the number of CUDA devices, got {self.devices}")

    @property
    def processes(self) -> int:
        """Number of processes that train."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class Output:
    """Where a run writes.

    Attributes:
        out: The folder; None: ``default``.
        resume: Whether to resume an interrupted run; a finished one is then refused.
        loggers: Names of loggers, see `tame.training.loggers`.
        progress: Whether a progress bar is shown.
        default: The folder where none is named; ``{backbone}`` is the classifier's name.

    Raises:
        InputError: For loggers that cannot be used.
    """

    out: str | Path | None = None
    resume: bool = True
    loggers: Sequence[LoggerName] = ("none",)
    progress: bool = False
    default: str = "runs/{backbone}"

    def __post_init__(self) -> None:
        check_loggers(self.loggers)

    def folder(self, backbone: str) -> Path:
        """Return the folder.

        Raises:
            InputError: For a file in its place, or the folder of a finished run.
        """
        folder = Path(self.default.format(backbone=folder_name(backbone)) if self.out is None else self.out)
        if folder.is_file():
            raise InputError(f"expected a folder as out, got the file {folder}")
        if self.resume and (folder / TENSORS).is_file():
            raise InputError(f"{folder} contains a finished run: give another out, or resume=False to overwrite it")
        return folder


@dataclass(frozen=True)
class TrainingPlan:
    """A training run.

    Attributes:
        classifier: The classifier, with the feature layers that the mechanism reads.
        attention: Name of the attention mechanism.
        choices: The preset, with the run's own choices in place.
        lists: The images.
        init_images: Training images to initialise from the classifier with.
        max_bad_images: Largest fraction of unreadable images.
        clip: Largest norm of the gradient, None without clipping.
        hardware: What the run computes on.
        seed: Seed of everything random.
        device: Device of the classifier, which is the device of the run.
        folder: Where the run writes.
        output: What is written besides, and whether to resume an interrupted run in that folder.
        config: Arguments of the command that repeats the run.
    """

    classifier: FrozenClassifier
    attention: str
    choices: Preset
    lists: TrainingLists
    init_images: int
    max_bad_images: float
    clip: float | None
    hardware: Hardware
    seed: int
    device: torch.device
    folder: Path
    output: Output
    config: Mapping[str, Any]

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of Lightning's trainer that say how to compute."""
        return {
            "accelerator": self.device.type,
            "precision": resolve_precision(self.hardware.precision, self.device.type, training=True),
            "gradient_clip_val": self.clip or None,
        }

    def hyperparameters(self) -> dict[str, Any]:
        """Return what loggers note of the run: its arguments, and all choices that they stand for."""
        made = {"attention": self.attention, "layers": list(self.classifier.layers), "images": len(self.lists.train)}
        choices = {name: value for name, value in asdict(self.choices).items() if name != "name"}  # that is preset
        return {**self.config, **choices, **made}

    def settings(self) -> dict[str, Any]:
        """Return the provenance of the run that is known before it starts; a resumed run has to agree with it."""
        return describe(self.classifier) | {
            "attention": self.attention,
            "output_size": self.choices.output_size,
            "preset": self.choices.name,
            "choices": asdict(self.choices),
            "images": len(self.lists.train),
            **self.lists.hashes(),
            "seed": self.seed,
            "precision": self.hardware.precision,
            "clip": self.clip or 0.0,
        }


def resolve(
    classifier: FrozenClassifier | nn.Module | str | Path,
    images: TrainingImages,
    recipe: Recipe,
    hardware: Hardware,
    seed: int,
    output: Output,
) -> TrainingPlan:
    """Decide what to train, on which images and where; nothing is written.

    Raises:
        InputError: For anything that cannot be used.
    """
    check_numbers(seed=seed)
    recipe.choices()  # contradictions are refused before the classifier is loaded
    if isinstance(classifier, str | Path):
        classifier = load_classifier(classifier, seed=seed)
    classifier = as_classifier(classifier)
    device, folder = classifier.mean.device, output.folder(classifier.spec.name)
    hardware.check_on(device.type)
    config = _config(classifier, images, recipe, hardware) | {
        "seed": seed,
        "logger": list(output.loggers),
        "resume": output.resume,
    }
    if output.out is not None:
        config["out"] = str(output.out)
    lists = images.find(classifier.spec.num_classes, seed)
    lists.check_kept((folder / TRAIN_LIST, folder / VAL_LIST))
    tokens = classifier.spec.tokens is not None
    choices, attention = recipe.choices(tokens), recipe.attention_for(tokens)
    return TrainingPlan(
        classifier=_at_layers(classifier, choices.layers, attention),
        attention=attention,
        choices=choices,
        lists=lists,
        init_images=recipe.init_images,
        max_bad_images=images.max_bad_images,
        clip=recipe.clip,
        hardware=hardware,
        seed=seed,
        device=device,
        folder=folder,
        output=output,
        config=config,
    )


def _at_layers(classifier: FrozenClassifier, layer_set: str, attention: str) -> FrozenClassifier:
    """Return the classifier with the preset's layer set, of which an L-CAM reads the last, unless layers are named."""
    changed = classifier.with_layer_set(layer_set)
    if attention not in LCAM_FORMS or classifier.layers_named:
        return changed
    layer = changed.layers[-1]
    logger.info("%s reads %s, the last layer of the preset's layer set; layers selects another.", attention, layer)
    return changed.with_layers([layer])


def _config(classifier: FrozenClassifier, images: TrainingImages, recipe: Recipe, hardware: Hardware) -> dict[str, Any]:
    """Return the arguments that load the classifier, and those of the run, as JSON values without None."""
    device = classifier.mean.device.type
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    where = {} if device == automatic else {"device": device}  # only a device that was chosen
    arguments = images.arguments() | asdict(recipe) | asdict(hardware)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    return {
        "backbone": classifier.spec.name,
        **classifier.source,
        **where,
        **{name: value for name, value in plain.items() if value is not None},
    }
