"""Learning-rate range test: train with a rate that grows at each step, and look where the loss falls."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.tuner.tuning import Tuner
from numpy.typing import NDArray
from torch import Tensor

from tame.attention.loss import AttentionLoss
from tame.backbones import find_spec
from tame.classifier.probing.overrides import Given
from tame.data import Batch
from tame.options import LrFindOptions
from tame.training.module import AttentionModule
from tame.training.optim import build_optimizer
from tame.training.setup import TrainingSetup, set_up, start, with_attention
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device, resolve_precision
from tame.utils.io import folder_name, replacing
from tame.visualize import learning_rate_curve

_FEWEST_STEPS = 10
_SMOOTHING = 1 / 25  # standard deviation of the window, as a share of the steps
_CLEAR = 5.0  # a fall counts from this many standard errors of the smoothed loss on


class LrCurve(NamedTuple):
    """Loss over learning rate, one value per step that was trained."""

    lrs: list[float]
    losses: list[float]


class LrFound(NamedTuple):
    """What a range test says: the curve, the loss smoothed, the rate it suggests, if any, and the folder."""

    curve: LrCurve
    smoothed: list[float]
    suggestion: float | None
    folder: Path


def lr_find(options: LrFindOptions) -> LrFound:
    """Test learning rates from ``min_lr`` to ``max_lr`` on the training images; write ``lr_find.csv`` and ``.png``.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.

    Raises:
        InputError: For anything that cannot be used, before any work.
    """
    if not 0 < options.min_lr < options.max_lr < float("inf"):
        raise InputError(f"expected 0 < --min-lr < --max-lr, got {options.min_lr:g} and {options.max_lr:g}")
    if options.steps < _FEWEST_STEPS:
        raise InputError(f"expected --steps of at least {_FEWEST_STEPS}, got {options.steps}")
    device = resolve_device(options.device)
    precision: Any = resolve_precision(options.precision, device, training=True)
    spec = find_spec(options.backbone, Given.by(options))
    options = replace(with_attention(options, spec), epochs=1)  # with none, nothing would be made ready to train
    setup = set_up(options, spec, device)
    start(setup, options)
    trainer = {"accelerator": device, "precision": precision, "gradient_clip_val": options.clip or None}
    curve = range_test(setup, options, trainer)
    smoothed = smooth(curve.losses)
    out = Path(options.out or f"runs/{folder_name(spec.name)}-lr-find")
    found = LrFound(curve, smoothed, suggest(curve), out)
    with replacing(out / "lr_find.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("lr", "loss", "smoothed"), *zip(*curve, smoothed, strict=True)])
    learning_rate_curve(*curve, smoothed, found.suggestion, out / "lr_find.png")
    return found


def range_test(setup: TrainingSetup, options: LrFindOptions, trainer_options: dict[str, Any]) -> LrCurve:
    """Train while the learning rate grows exponentially, and put the mechanism back as it was.

    A loss that is no number, or whose running average grows to four times its smallest value, ends the test.

    Args:
        setup: What is trained; started already.
        options: Range, number of steps and seed.
        trainer_options: For Lightning's trainer.

    Raises:
        InputError: If the loss is no number from the first step on.
    """
    setup.data.setup()
    loss = AttentionLoss(setup.choices.loss, score=setup.model.classifier.spec.score)
    module = _Probe(
        setup.model,
        loss,
        max_lr=options.min_lr,
        other_classes=setup.choices.other_classes,
        masking=setup.choices.masking,
        seed=options.seed,
    )
    with TemporaryDirectory() as folder:  # the tuner saves the mechanism there
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            **trainer_options,
        )
        Tuner(trainer).lr_find(
            module,
            train_dataloaders=setup.data.train_dataloader(),
            min_lr=options.min_lr,
            max_lr=options.max_lr,
            num_training=options.steps,
            update_attr=False,
        )
    if not module.curve.losses:
        raise InputError(f"the loss is not finite at the smallest learning rate, {options.min_lr:g}")
    return module.curve


class _Probe(AttentionModule):
    """Training at whatever rate the tuner sets: no schedule of its own, and a loss that explodes ends it quietly."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.curve = LrCurve([], [])

    def configure_optimizers(self) -> Any:
        """Return the optimiser of training, alone."""
        return build_optimizer(self.model.attention, self.max_lr)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override] # None skips
        """Return the loss of a batch, remembered with the rate that the next step will take."""
        total = self.training_terms(batch)["total"]
        if not torch.isfinite(total):
            self.trainer.should_stop = True
            return None
        self.curve.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.curve.losses.append(total.item())
        return total


def smooth(losses: Sequence[float]) -> list[float]:
    """Average each loss with its neighbours, weighted by a Gaussian: no lag, unlike a running average."""
    smoothed: list[float] = (_weights(len(losses)) @ np.asarray(losses)).tolist()
    return smoothed


def suggest(curve: LrCurve) -> float | None:
    """Return the rate at which the smoothed loss falls most steeply over the logarithm of the rate.

    None where no rate can be suggested: the loss does not fall from its highest to its lowest value by clearly more
    than batches differ.

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
