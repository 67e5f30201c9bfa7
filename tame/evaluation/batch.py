"""Evaluate one batch of images: a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.cost import PassCounter, Passes, relative_cost
from tame.data import Batch
from tame.evaluation.rows import COSTS, Row
from tame.perturbations import (
    PassRows,
    PassSettings,
    Perturbation,
    PlainScores,
    Scores,
    Stopwatch,
    UsableMaps,
    perturbed_scores,
    plain_scores,
    usable_maps,
)
from tame.perturbations.names import confidence_column, kept_column
from tame.perturbations.passes import autocast

Maps = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Unscaled maps (B, h, w) of images (B, C, H, W), targets (B,) and positions in the list (B,)."""

Cells = dict[str, float]


class BatchEvaluation:
    """Explains the predicted class of each image, and classifies its perturbed versions.

    Args:
        maps_of: Explains.
        classifier: The classifier, on the device to compute on.
        perturbations: How the images are perturbed.
        files: Name of each image of the list, in order.
        rows: Perturbed images per pass through the classifier.
        only: ``correct``: misclassified images are not explained.
        precision: Precision of all passes.
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
        names = [name for each in perturbations for name in each.names]
        kept = [name for each in perturbations if each.reads_kept for name in each.names]
        self.flags = [*map(kept_column, kept), "constant", "invalid"]
        self.columns = [*map(confidence_column, names), *self.flags, *COSTS]

    def __call__(self, batch: Batch) -> list[Row]:
        """Return one row per image, with empty cells where an image does not count."""
        device = self.classifier.mean.device
        stopwatch = Stopwatch(device)
        with stopwatch.timing("classify"):
            images = batch["image"].to(device)
            plain = plain_scores(self.classifier, images, self.precision)
        rows = torch.arange(len(images))
        if self.only == "correct":
            rows = rows[batch["label"] == plain.targets.cpu()]
        measured: dict[int, Cells] = {}
        if len(rows):
            there, indices = rows.to(device), batch["index"][rows]
            images, targets = images[there], plain.targets[there]
            with (
                self.counter.counting() as passes,
                stopwatch.timing("explain"),
                autocast(device, self.precision),
            ):
                maps = usable_maps(self.maps_of(images, targets, indices))
            settings = PassSettings(self.rows, self.precision, stopwatch)
            scores = perturbed_scores(
                self.classifier, images, maps.maps, targets, indices, self.perturbations, settings
            )
            cells = self._measured_cells(maps, scores, passes, stopwatch)
            measured = dict(zip(rows.tolist(), cells, strict=True))
        empty = dict.fromkeys(self.columns, "")
        return [
            row | {"counted": int(position in measured)} | measured.get(position, empty)
            for position, row in enumerate(self._plain_cells(batch, plain))
        ]

    def work(self, batch: Batch) -> float | None:
        """Explain the first image of a batch and return the relative cost of that, see `relative_cost`."""
        with torch.inference_mode(False), torch.no_grad():
            images, indices = batch["image"][:1].clone().to(self.classifier.mean.device), batch["index"][:1].clone()
            targets = plain_scores(self.classifier, images, self.precision).targets
            with autocast(images.device, self.precision):
                return relative_cost(self.classifier, images, lambda: self.maps_of(images, targets, indices))

    def _plain_cells(self, batch: Batch, plain: PlainScores) -> Iterator[dict[str, str | int | float]]:
        """Yield the cells that every image has."""
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
        self, maps: UsableMaps, scores: Scores, passes: Passes, stopwatch: Stopwatch
    ) -> Iterator[Cells]:
        """Yield the cells of the images that were explained."""
        count = len(maps.maps)
        seconds = [stopwatch.seconds[activity] for activity in ("explain", "perturb", "classify")]
        costs = [total / count for total in (passes.forward, passes.backward, *seconds)]
        columns = {
            **{name: values.tolist() for name, values in scores.columns().items()},
            "constant": maps.constant.tolist(),
            "invalid": maps.invalid.tolist(),
            **{name: [cost] * count for name, cost in zip(COSTS, costs, strict=True)},
        }
        for row in range(count):
            cells = {name: columns[name][row] for name in self.columns}
            yield cells | {name: int(cells[name]) for name in self.flags if cells[name] in (0, 1)}
