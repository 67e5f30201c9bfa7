"""Write a trained mechanism, with its provenance."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tame.attention import TAME
from tame.attention.model import ExplainedClassifier
from tame.attention.shared import fold_shared_row
from tame.checkpoints.native import save_attention
from tame.explainers.learned import LearnedExplainer, method_of
from tame.training.build import Training
from tame.training.fit import Fitted
from tame.training.folder import CURVES, last_checkpoint
from tame.training.last_checkpoint import previous_of
from tame.visualize import training_curves

logger = logging.getLogger("tame")


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        folder: Folder of the run, a checkpoint that can be given wherever one is expected.
        explainer: The trained explainer (of the best epoch).
        metrics: Validation metrics of that epoch; empty without training.
        initial_metrics: Validation metrics of the initialisation; empty without training.
        epoch: Number of epochs that the explainer was trained for.
    """

    folder: Path
    explainer: LearnedExplainer
    metrics: Mapping[str, float]
    initial_metrics: Mapping[str, float]
    epoch: int


def save(training: Training, fitted: Fitted) -> TrainedRun:
    """Write the mechanisms of the best and of the last epoch; only the main process (rank 0) writes."""
    plan, model, validations = training.plan, training.model, fitted.history.validations
    details, epoch = plan.settings() | {"seconds": fitted.seconds}, plan.choices.epochs
    if fitted.best is not None:
        details["initial_metrics"] = validations.get(0, {})
        if fitted.main_process:
            measured = {"epoch": epoch, "metrics": validations[epoch]}
            save_attention(plan.folder / "last", _finished(model), details | measured)
        if epoch > 1 and (fitted.main_process or fitted.best.is_file()):
            epoch = _load_best(model, fitted.best)
        details["metrics"] = validations.get(epoch, {})
    if unreadable := training.unreadable.summary():
        counts = " and ".join(f"{count} {part}" for part, count in unreadable.items())
        logger.warning("%s images could not be read and were left out.", counts)
        details["unreadable"] = unreadable
    finished = _finished(model)
    if fitted.main_process:
        if fitted.best is not None:
            epoch_steps = training.steps // plan.choices.epochs
            training_curves(fitted.history.losses, validations, epoch_steps, plan.folder / CURVES)
        save_attention(plan.folder, finished, details | {"epoch": epoch})
        previous_of(last_checkpoint(plan)).unlink(missing_ok=True)
    explainer = LearnedExplainer(finished)
    explainer.method, explainer.arguments = method_of(plan.attention), {"checkpoint": str(plan.folder)}
    return TrainedRun(plan.folder, explainer, details.get("metrics", {}), details.get("initial_metrics", {}), epoch)


def _finished(model: ExplainedClassifier) -> ExplainedClassifier:
    """Return a copy of the model as it is now, the shared row added to the rows of all classes."""
    attention: Any = copy.deepcopy(model.attention)
    if isinstance(attention, TAME):
        fold_shared_row(attention)
    return ExplainedClassifier(model.classifier, attention.eval().requires_grad_(False))


def _load_best(model: ExplainedClassifier, best: Path) -> int:
    """Load the mechanism of the best epoch; return the number of epochs that it was trained for."""
    saved = torch.load(best, weights_only=True, map_location=model.classifier.mean.device)
    state = {key.removeprefix("model.attention."): value for key, value in saved["state_dict"].items()}
    model.attention.load_state_dict(state)
    return int(saved["epoch"]) + 1
