"""Small training runs of the toy classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback

import tame.training.train
from tame.checkpoints.classifier import load_classifier
from tame.classifier import FrozenClassifier
from tame.training.fit import MONITOR, fit
from tame.training.save import TrainedRun
from tame.training.train import train

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "init_images": 8, "lr": 0.05}


@pytest.fixture
def toy(toy_backbone: str) -> Callable[..., FrozenClassifier]:
    """Return ``toy(layers=..., backbone=...)``: the toy classifier, loaded by name on the CPU."""

    def load(backbone: str = toy_backbone, **arguments: Any) -> FrozenClassifier:
        return load_classifier(backbone, **{"device": "cpu", **arguments})

    return load


@pytest.fixture
def run_toy(
    toy: Callable[..., FrozenClassifier], photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainedRun]:
    """Return ``run_toy(epochs=1, ...)``: train the toy classifier into tmp_path / "run".

    Besides the arguments of `tame.train` it takes ``backbone`` and ``layers`` of a classifier that it loads, and
    ``callback`` and ``monitor`` of the fit.
    """

    def run(callback: Callback | None = None, monitor: str = MONITOR, **changes: Any) -> TrainedRun:
        loading = {name: changes.pop(name) for name in ("backbone", "layers") if name in changes}
        arguments = {"data": photographs, "out": tmp_path / "run", **SMALL, **changes}
        callbacks = [callback] if callback else []
        with monkeypatch.context() as patch:
            patch.setattr(tame.training.train, "fit", lambda training: fit(training, callbacks, monitor))
            return train(arguments.pop("classifier", None) or toy(**loading), **arguments)

    return run
