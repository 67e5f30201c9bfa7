"""Measure one batch of images: a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.cost import PassCounter, work_of
from tame.data import Batch
from tame.evaluation.records import COSTS, Row
from tame.metrics.measures import confidence_column, kept_column
from tame.perturbations import (
    PassRows,
    Perturbation,
    PlainScores,
    Stopwatch,
    perturbed_scores,
    plain_scores,
    usable_maps,
)
from tame.perturbations.scoring import autocast

Maps = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Unscaled maps (B, h, w) of images (B, C, H, W), targets (B,) and positions in the list (B,)."""


class BatchMeasurement:
    """Explains the model truth of each image, and classifies what the perturbations make of it.

    Args:
        maps_of: Explains.
        classifier: The classifier, on the device to compute on.
        perturbations: What is done to the images.
        files: Name of each image of the list, in order.
        rows: Perturbed images per pass through the classifier.
        only: ``correct``: images that the classifier gets wrong are not measured.
        precision: Of all passes.
    """

    def __init__(
        self,
        maps_of: Maps,
        classifier: FrozenClassifier,
        perturbations: Sequence[Perturbation],
        files: Sequence[str],
        rows: PassRows,
        only: Literal["all", "correct"] = "all",
        precision: str = "32",
    ) -> None:
        self.maps_of, self.classifier, self.perturbations, self.files = maps_of, classifier, perturbations, files
        self.rows, self.only, self.precision = rows, only, precision
        self.counter = PassCounter(classifier)
        kept = [name for each in perturbations if each.reads_kept for name in each.names]
        self.names = [name for each in perturbations for name in each.names]
        self.columns = [*map(confidence_column, self.names), *map(kept_column, kept), "constant", "invalid", *COSTS]

    def __call__(self, batch: Batch) -> list[Row]:
        """Return one row per image, with empty cells where an image does not count."""
        device = self.classifier.mean.device
        watch = Stopwatch(device)
        with watch.timing("classify"):
            images = batch["image"].to(device)
            plain = plain_scores(self.classifier, images, self.precision)
        basic = self._plain_cells(batch, plain)
        rows = torch.arange(len(images))
        if self.only == "correct":
            rows = rows[batch["label"] == plain.targets.cpu()]
        measured: dict[int, dict[str, float]] = {}
        if len(rows):
            there = rows.to(device)
            cells = self._measured_cells(images[there], plain.targets[there], batch["index"][rows], watch)
            measured = dict(zip(rows.tolist(), cells, strict=True))
        empty = dict.fromkeys(self.columns, "")
        return [
            row | {"counted": int(position in measured)} | measured.get(position, empty)
            for position, row in enumerate(basic)
        ]

    def work(self, batch: Batch) -> float | None:
        """Explain the first image of a batch and return the work of that, see `work_of`."""
        with torch.inference_mode(False), torch.no_grad():
            images, indices = batch["image"][:1].clone().to(self.classifier.mean.device), batch["index"][:1].clone()
            targets = plain_scores(self.classifier, images, self.precision).targets
            with autocast(images.device, self.precision):
                return work_of(self.classifier, images, lambda: self.maps_of(images, targets, indices))

    def _plain_cells(self, batch: Batch, plain: PlainScores) -> Iterator[dict[str, str | int | float]]:
        best = plain.logits.topk(min(5, plain.logits.shape[1])).indices.tolist()
        columns = (batch["index"], batch["label"], plain.targets, plain.confidence)
        for top, index, label, target, confidence in zip(best, *(each.tolist() for each in columns), strict=True):
            known = label >= 0
            yield {
                "index": index,
                "file": self.files[index],
                "label": label if known else "",
                "target": target,
                "correct_top1": int(label == target) if known else "",
                "correct_top5": int(label in top) if known else "",
                "p": confidence,
            }

    def _measured_cells(
        self, images: Tensor, targets: Tensor, indices: Tensor, watch: Stopwatch
    ) -> Iterator[dict[str, float]]:
        with self.counter.counting() as passes, watch.timing("explain"), autocast(images.device, self.precision):
            maps = usable_maps(self.maps_of(images, targets, indices))
        scores = perturbed_scores(
            self.classifier,
            images,
            maps.maps,
            targets,
            indices,
            self.perturbations,
            rows=self.rows,
            precision=self.precision,
            watch=watch,
        )
        confidence = dict(zip(map(confidence_column, self.names), scores.confidence.tolist(), strict=True))
        kept = dict(zip(map(kept_column, self.names), scores.kept.int().tolist(), strict=True))
        count = len(images)
        costs = [
            passes.forward / count,
            passes.backward / count,
            *(watch.seconds[activity] / count for activity in ("explain", "perturb", "classify")),
        ]
        columns = {
            **confidence,
            **kept,
            "constant": maps.constant.int().tolist(),
            "invalid": maps.invalid.int().tolist(),
            **{name: [cost] * count for name, cost in zip(COSTS, costs, strict=True)},
        }
        for row in range(count):
            yield {name: columns[name][row] for name in self.columns}
