"""Learning-rate range test: train with a rate that grows at each step, and find where the loss falls."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.tuner.tuning import Tuner
from numpy.typing import NDArray
from torch import Tensor, nn

from tame.attention.loss import AttentionLoss
from tame.checkpoints.classifier import DEFAULT_BACKBONE
from tame.classifier import FrozenClassifier
from tame.data import Batch
from tame.explainers.registry import check_names
from tame.training.build import Training, build
from tame.training.images import TrainingImages
from tame.training.module import AttentionModule
from tame.training.optim import build_optimizer
from tame.training.plan import Hardware, Output, resolve
from tame.training.progress import quiet_lightning
from tame.training.recipe import Recipe
from tame.training.train import train
from tame.utils.checks import InputError
from tame.utils.folders import claim, locked
from tame.utils.io import replacing
from tame.visualize import learning_rate_curve

WITHOUT = ("lr", "epochs", "limit_val_images", "devices", "num_nodes", "strategy", "out", "logger", "resume")
"""Arguments of `tame.train` that do not matter to a range test."""

_FEWEST_STEPS = 10
_TABLE, _PICTURE = "lr_find.csv", "lr_find.png"
_COLUMNS = ("lr", "loss", "smoothed")
_SMOOTHING = 1 / 25  # standard deviation of the window, relative to the number of steps
_CLEAR = 5.0  # number of standard errors of the smoothed loss from which on a fall counts


class LrCurve(NamedTuple):
    """Loss over learning rate, one value per training step."""

    lrs: list[float]
    losses: list[float]


class LrFound(NamedTuple):
    """Result of a range test: the curve, the smoothed loss, the suggested rate (or None), and the folder."""

    curve: LrCurve
    smoothed: list[float]
    suggestion: float | None
    folder: Path


class LrRange(NamedTuple):
    """The rates of a range test."""

    min_lr: float
    max_lr: float
    steps: int

    def check(self) -> None:
        """Check the rates.

        Raises:
            InputError: For rates in another order than 0, min_lr, max_lr, or too few steps.
        """
        if not 0 < self.min_lr < self.max_lr < float("inf"):
            raise InputError(f"expected 0 < min_lr < max_lr, got {self.min_lr:g} and {self.max_lr:g}")
        if self.steps < _FEWEST_STEPS:
            raise InputError(f"expected steps of at least {_FEWEST_STEPS}, got {self.steps}")


def lr_find(
    classifier: FrozenClassifier | nn.Module | str | Path = DEFAULT_BACKBONE,
    *,
    min_lr: float = 1e-5,
    max_lr: float = 10.0,
    steps: int = 100,
    out: str | Path | None = None,
    **training: Any,
) -> LrFound:
    """Suggest a learning rate for a training run by a range test.

    The start of that run is trained for some steps, with a learning rate that grows from step to step. The curve is
    written as ``lr_find.csv`` and ``lr_find.png``; the mechanism is not.

    Args:
        classifier: The classifier: frozen, a trained network, or a name (see `tame.load_classifier`). The test runs on
            the device of the classifier.
        min_lr: Learning rate of the first step.
        max_lr: Learning rate of the last step.
        steps: Number of steps; a loss that explodes ends the test.
        out: Folder of the curve; default: runs/BACKBONE-lr-find.
        training: Arguments of the training run, see `tame.train`, except for those of `WITHOUT`.

    Returns:
        The curve, and the rate at which the smoothed loss falls most steeply, None if it does not fall clearly.

    Raises:
        InputError: For anything that cannot be used, or files of anyone else in the folder, before the test starts.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
    """
    rates = LrRange(min_lr, max_lr, steps)
    rates.check()
    parameters = inspect.signature(train).parameters
    check_names("lr_find", [name for name in parameters if name not in ("classifier", *WITHOUT)], training)
    images, recipe, hardware = (
        {one.name: training[one.name] for one in fields(group) if one.name in training}
        for group in (TrainingImages, Recipe, Hardware)
    )
    plan = resolve(
        classifier,
        TrainingImages(**images),
        Recipe(**recipe, epochs=1),  # without one, no shared row is prepared
        Hardware(**hardware),
        training.get("seed", 0),
        Output(out, resume=False, progress=training.get("progress", True), default="runs/{backbone}-lr-find"),
    )
    start = build(plan)
    with locked(plan.folder):
        claim(plan.folder, (_TABLE, _PICTURE), known=_is_curve(plan.folder / _TABLE))
        return _write(range_test(start, rates), plan.folder)


def range_test(training: Training, rates: LrRange) -> LrCurve:
    """Train while the learning rate grows exponentially, and restore the mechanism.

    A loss that is not finite, or whose running average grows to four times its smallest value, ends the test.

    Args:
        training: What to train, initialised.
        rates: The learning rates.

    Raises:
        InputError: If the loss is not finite at the first step.
    """
    plan, model = training.plan, training.model
    training.data.setup()
    module = _Probe(
        model,
        AttentionLoss(plan.choices.loss, score=model.classifier.spec.score),
        max_lr=rates.min_lr,
        other_classes=plan.choices.other_classes,
        masking=plan.choices.masking,
        seed=plan.seed,
    )
    with quiet_lightning(), TemporaryDirectory() as folder:  # the tuner saves the mechanism there
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=plan.output.progress,
            callbacks=[training.unreadable],
            **plan.trainer_arguments(),
        )
        Tuner(trainer).lr_find(
            module,
            train_dataloaders=training.data.train_dataloader(),
            min_lr=rates.min_lr,
            max_lr=rates.max_lr,
            num_training=rates.steps,
            update_attr=False,
        )
    model.to(plan.device)  # Lightning leaves it on the CPU
    if not module.curve.losses:
        raise InputError(f"the loss is not finite at the smallest learning rate, {rates.min_lr:g}")
    return module.curve


def _write(curve: LrCurve, folder: Path) -> LrFound:
    """Write and return what a curve says."""
    smoothed = smooth(curve.losses)
    found = LrFound(curve, smoothed, suggest(curve), folder)
    with replacing(folder / _TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *zip(*curve, smoothed, strict=True)])
    learning_rate_curve(*curve, smoothed, found.suggestion, folder / _PICTURE)
    return found


def _is_curve(file: Path) -> bool:
    """Whether a file is the table of a test of an earlier version, which noted no files."""
    return file.is_file() and file.read_bytes().startswith(",".join(_COLUMNS).encode())


class _Probe(AttentionModule):
    """Training at the rate that the tuner sets, without a schedule; a loss that is not finite ends it without error."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.curve = LrCurve([], [])

    def configure_optimizers(self) -> Any:
        """Return the optimiser of training, without its schedule."""
        return build_optimizer(self.model.attention, self.max_lr)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override] # None skips
        """Return the loss of a batch, and record it with the rate of the following optimiser step."""
        if not len(batch["image"]):
            return None
        total = self.training_terms(batch)["total"]
        if not torch.isfinite(total):
            self.trainer.should_stop = True
            return None
        self.curve.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.curve.losses.append(total.item())
        return total


def smooth(losses: Sequence[float]) -> list[float]:
    """Average each loss with its neighbours by Gaussian weights; unlike a running average it does not lag."""
    smoothed: list[float] = (_weights(len(losses)) @ np.asarray(losses)).tolist()
    return smoothed


def suggest(curve: LrCurve) -> float | None:
    """Return the rate at which the smoothed loss falls most steeply over the logarithm of the rate.

    None if the loss does not fall clearly: its fall from the highest to the lowest value is small compared with the
    differences between batches.

    Example:
        >>> lrs = [10 ** (step / 10) for step in range(-40, 1)]
        >>> suggest(LrCurve(lrs, [1.0] * 41)) is None
        True
        >>> round(suggest(LrCurve(lrs, [1 - 1 / (1 + (0.01 / lr) ** 2) for lr in lrs])), 3)
        0.01
    """
    smoothed = np.array(smooth(curve.losses))
    lowest = int(smoothed.argmin())
    if lowest < 2:
        return None
    highest = int(smoothed[:lowest].argmax())
    batches = np.diff(curve.losses[: lowest + 1]).std() / 2**0.5  # standard deviation of one batch
    weights = _weights(len(smoothed))
    error = batches * np.linalg.norm(weights[highest] - weights[lowest])  # of a difference of smoothed losses
    if smoothed[highest] - smoothed[lowest] <= max(_CLEAR * error, 1e-6 * abs(smoothed[0])):
        return None
    return curve.lrs[int(np.gradient(smoothed[: lowest + 1]).argmin())]


def _weights(count: int) -> NDArray[np.float64]:
    """Weights of the smoothing (count, count), each row adding up to 1."""
    positions = np.arange(count)
    weights = np.exp(-0.5 * ((positions[:, None] - positions) / max(1.0, _SMOOTHING * count)) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normalised
