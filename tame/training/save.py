"""Write a trained mechanism, with its provenance."""

from __future__ import annotations

import copy
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


@dataclass(frozen=True)
class TrainedRun:
    """A finished training run.

    Attributes:
        folder: Folder of the run, a checkpoint that can be given wherever one is expected.
        explainer: The trained explainer (of the best epoch).
        metrics: Validation metrics: of a run of several epochs the monitored one, of its best epoch; empty without
            training.
    """

    folder: Path
    explainer: LearnedExplainer
    metrics: Mapping[str, float]


def save(training: Training, fitted: Fitted) -> TrainedRun:
    """Write the mechanisms of the best and of the last epoch; only the main process (rank 0) writes."""
    plan, model = training.plan, training.model
    details = plan.settings() | {"seconds": fitted.seconds}
    metrics, epoch = fitted.metrics, plan.choices.epochs
    if fitted.best is not None:
        details["metrics"] = dict(metrics)
        if fitted.main_process:
            save_attention(plan.folder / "last", _finished(model), details | {"epoch": epoch})
        if epoch > 1 and (fitted.main_process or fitted.best.is_file()):
            metrics, epoch = fitted.best_metrics, _load_best(model, fitted.best)
            details["metrics"] = dict(metrics)
    finished = _finished(model)
    if fitted.main_process:
        save_attention(plan.folder, finished, details | {"epoch": epoch})
    explainer = LearnedExplainer(finished)
    explainer.method, explainer.arguments = method_of(plan.attention), {"checkpoint": str(plan.folder)}
    return TrainedRun(plan.folder, explainer, metrics)


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
