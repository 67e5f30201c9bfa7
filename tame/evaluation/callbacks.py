"""AD and IC in any Lightning run that can explain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MetricCollection

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.evaluation.records import percent, score_columns
from tame.metrics import AverageDrop, IncreaseInConfidence
from tame.perturb import masked_confidences, plain_confidences
from tame.types import MapScaling, MaskingKind


class AverageDropIncrease(Callback):
    """Logs AD and IC of a module's explanations in validation and test, as ``val/minmax/AD_100``.

    The module needs an attribute ``classifier`` (a `FrozenClassifier`), a method ``explain_batch(images, targets)``
    that returns unscaled maps (B, h, w), and batches with ``image``. The model truth of each image is explained.
    Sums go over all processes; an image that a distributed sampler repeats counts once.

    Args:
        scalings: Readings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.
        margin: What counts as an increase in confidence.
        batch_size: Rows per masked pass through the classifier.

    Raises:
        InputError: For scalings, keeps or a margin that make no sense; when a run starts, for a module that cannot
            explain.
    """

    def __init__(
        self,
        scalings: Sequence[MapScaling] = ("minmax",),
        keeps: Sequence[float] = (1.0, 0.5, 0.15),
        masking: MaskingKind | None = None,
        margin: float = 1e-5,
        batch_size: int = 32,
    ) -> None:
        score_columns(scalings, keeps)  # fail before any work
        self.scalings = tuple(scalings)
        self.keeps = tuple(keeps)
        self.masking = masking
        self.batch_size = batch_size
        self.metrics = {
            (scaling, keep): MetricCollection({"AD": AverageDrop(keep), "IC": IncreaseInConfidence(keep, margin)})
            for scaling in scalings
            for keep in keeps
        }
        self._seen: Counter[int] = Counter()  # images that this process has had, by loader

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the module can explain, before any work."""
        if not isinstance(getattr(pl_module, "classifier", None), FrozenClassifier):
            raise InputError(
                f"expected a module with a FrozenClassifier as .classifier, got {type(pl_module).__name__}"
            )
        if not callable(getattr(pl_module, "explain_batch", None)):
            raise InputError(f"expected a module with explain_batch(images, targets), got {type(pl_module).__name__}")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier epochs and the sanity check."""
        self._reset(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier epochs."""
        self._reset(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the batch and classify what the explanations keep."""
        self._update(pl_module, self._first_time(trainer, trainer.val_dataloaders, dataloader_idx, batch["image"]))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the batch and classify what the explanations keep."""
        self._update(pl_module, self._first_time(trainer, trainer.test_dataloaders, dataloader_idx, batch["image"]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the epoch's images gave."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what the epoch's images gave."""
        self._log(pl_module, "test")

    def _reset(self, pl_module: LightningModule) -> None:
        self._seen.clear()
        device = torch.device("cpu") if pl_module.device.type == "mps" else pl_module.device  # no float64 on MPS
        for metrics in self.metrics.values():
            metrics.reset()
            metrics.to(device)

    def _first_time(self, trainer: Trainer, loaders: Any, position: int, images: Tensor) -> Tensor:
        """Return the images that no other process, nor this one, has counted already."""
        seen = self._seen[position]
        self._seen[position] += len(images)
        if trainer.world_size == 1:
            return images
        loader = loaders[position] if isinstance(loaders, list | tuple) else loaders
        return images[first_time(loader, seen, len(images))]

    def _update(self, pl_module: LightningModule, images: Tensor) -> None:
        if not len(images):
            return
        classifier: Any = pl_module.classifier  # checked in setup
        explain: Any = pl_module.explain_batch
        plain = plain_confidences(classifier, images)
        masked = masked_confidences(
            classifier,
            images,
            explain(images, plain.targets),
            plain.targets,
            keeps=self.keeps,
            scalings=self.scalings,
            masking=self.masking or classifier.spec.masking,
            batch_size=self.batch_size,
        )
        for metrics, scores in zip(self.metrics.values(), masked.flatten(0, 1), strict=True):
            device = next(iter(metrics.values())).device
            metrics.update(plain.confidence.to(device), scores.to(device))

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        for (scaling, keep), metrics in self.metrics.items():
            values = {f"{stage}/{scaling}/{name}_{percent(keep)}": value for name, value in metrics.compute().items()}
            pl_module.log_dict(values, sync_dist=True)  # equal in all processes already


def first_time(loader: Any, seen: int, batch: int) -> slice:
    """Say which images of a batch are no repetitions by a `DistributedSampler`.

    The sampler deals positions in turn, k * processes + rank, and fills the last turn by starting again.

    Args:
        loader: The loader of the batch.
        seen: Images that this process has had before, in this epoch.
        batch: Images of the batch.

    Returns:
        The part of the batch to count; all of it without a distributed sampler.
    """
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return slice(batch)
    length = len(sampler.dataset)  # type: ignore[arg-type] # the sampler itself needs its length
    turns = -(-(length - sampler.rank) // sampler.num_replicas)  # of this process, without repetitions
    return slice(max(0, min(batch, turns - seen)))
