"""Evaluations of toy classifiers on generated images, and what two of them must have in common."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import Dataset

from tame.checkpoints.classifier import load_classifier
from tame.classifier import FrozenClassifier
from tame.data import Batch
from tame.data.dataset import Sample
from tame.evaluation import Evaluation, EvaluationRequest, RunSettings, Summary, open_run, run_evaluations
from tame.evaluation.batch import Maps
from tame.evaluation.evaluate import evaluate
from tame.evaluation.request import ChosenImages
from tame.explainers import build_explainer
from tame.metrics import Deletion, ImputedConfidence, Insertion, MaskedConfidence, Metric

COUNT = 23
FILES = [f"{index:02d}.jpg" for index in range(COUNT)]
EVERYTHING: tuple[Metric, ...] = (
    MaskedConfidence(masking="cnn"),
    ImputedConfidence((0.1, 0.5, 0.9)),
    Insertion(3),
    Deletion(3),
)
SETTINGS = RunSettings(batch_size=7, pass_rows=None, num_workers=0, precision="32", resume=True, progress=False)


class Interrupted(Exception):  # noqa: N818 - no error
    """As if the process were killed."""


class Images(Dataset[Sample]):
    """Images of 3 x 32 x 32, of which number 4 has no label; reading stops before image ``stop``."""

    def __init__(self, count: int = COUNT, stop: int | None = None) -> None:
        self.images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        self.labels = torch.tensor([-1 if index == 4 else index % 5 for index in range(count)])
        self.stop = stop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if self.stop is not None and index >= self.stop:
            raise Interrupted
        return Sample(image=self.images[index], label=int(self.labels[index]), index=index)


def batch_of(images: Tensor, labels: Sequence[int] | None = None) -> Batch:
    known = [-1] * len(images) if labels is None else list(labels)
    return Batch(image=images, label=torch.tensor(known), index=torch.arange(len(images)))


def maps_by(classifier: FrozenClassifier, method: str) -> Maps:
    explainer = build_explainer(classifier, method)
    return lambda images, targets, _indices: explainer(images, targets)


class Module(LightningModule):
    """Explains by any method, under whatever grad mode Lightning chooses."""

    def __init__(self, classifier: FrozenClassifier, method: str = "gradcam") -> None:
        super().__init__()
        self.classifier = classifier
        self.explainer = build_explainer(classifier, method)
        self.weight = nn.Parameter(torch.zeros(1))

    def explain_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.explainer(images, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.weight - 1).square().sum()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def request_for(
    metrics: Sequence[Metric] = EVERYTHING, files: Sequence[str] = FILES, **changes: Any
) -> EvaluationRequest:
    """Return a request for images that stand in no file; ``changes`` are those of the request or its settings."""
    own = {name: changes.pop(name) for name in ("only", "preset", "overrides") if name in changes}
    images = ChosenImages([], list(files), "list", "1234")
    fields: dict[str, Any] = {"only": "all", "preset": "tame", "overrides": {}} | own
    return EvaluationRequest(images=images, metrics=tuple(metrics), settings=replace(SETTINGS, **changes), **fields)


def run(
    classifier: FrozenClassifier,
    out: Path,
    metrics: Sequence[Metric] = EVERYTHING,
    *,
    method: str = "gradcam",
    stop: int | None = None,
    **changes: Any,
) -> Summary:
    """Evaluate a method on `Images`; ``maps_of`` explains in its place."""
    arguments: dict[str, Any] = {
        "maps_of": changes.pop("maps_of", None) or maps_by(classifier, method),
        "dataset": Images(stop=stop),
        "provenance": {"method": method, "preset": "tame", "overrides": {}},
    }
    process = changes.pop("process", None)
    arguments |= {name: changes.pop(name) for name in arguments if name in changes}
    one = Evaluation(classifier=classifier, request=request_for(metrics, **changes), out=out, title=method, **arguments)
    (summary,) = run_evaluations([one], process)
    return summary


def measure(method: Any = "centre", **options: Any) -> Summary:
    """Call `evaluate` on the CPU, on the toy CNN unless asked otherwise, and return the summary of its run."""
    classifier = options.pop("classifier", None) or load_classifier("toy_cnn", device="cpu")
    table = evaluate(method, classifier, **{"data": "photographs", "out": "run", "progress": False} | options)
    (folder,) = table.attrs["folders"].values()
    return open_run(folder).summary


def names(folder: Path) -> list[str]:
    """Return the names in the folder of a run, without those that are hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def cells(folder: Path) -> list[dict[str, str]]:
    """Read all that does not depend on the clock, as it is written."""
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return [
            {name: cell for name, cell in row.items() if not name.startswith("seconds_")}
            for row in csv.DictReader(file)
        ]


def numbers(summary: Summary) -> dict[str, Any]:
    """Return all of a summary that does not depend on the clock."""
    cost = {name: value for name, value in summary.cost.items() if not name.startswith("seconds_")}
    return {**vars(summary), "cost": cost, "rows_sha256": None}
