"""Any metric of explanations in any Lightning run that can explain: AD and IC, ROAD, or a registered one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from tame.classifier import FrozenClassifier
from tame.metrics import ImputedConfidence, MaskedConfidence, MeasureMean, Metric
from tame.metrics.ad_ic import KEEPS, MARGIN
from tame.perturbations import PassRows, PassSettings, perturbed_scores, plain_scores
from tame.perturbations.imputed import NOISE, REMOVES
from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError


class MetricCallback(Callback):
    """Explains, perturbs and classifies the images of validation and test, and logs every measure of a metric.

    The module needs an attribute ``classifier`` (a `FrozenClassifier`), a method ``explain_batch(images, targets)``
    that returns unscaled maps (B, h, w), and batches with ``image``. The predicted class of each image is explained.
    Sums go over all processes; an image that a distributed sampler repeats counts once.

    Args:
        metric: The metric, such as ``tame.metrics.Deletion()``; its measures are logged as ``val/deletion/AUC``.
        pass_rows: Perturbed images per pass through the classifier; default: as many as fit.

    Raises:
        InputError: When a run starts, for a module that cannot explain.
    """

    def __init__(self, metric: Metric, pass_rows: int | None = None) -> None:
        PassRows(pass_rows)  # fail before any work
        self.metric, self.perturbation, self.pass_rows = metric, metric.perturbation(), pass_rows
        self.means = {measure.name: MeasureMean(measure) for measure in metric.measures()}
        self._rows: PassRows | None = None
        self._seen: Counter[int] = Counter()  # images that this process has had, by loader

    def values(self) -> dict[str, Tensor]:
        """Return the measures over all images so far, by name."""
        return {name: mean.compute() for name, mean in self.means.items()}

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
        """Explain the batch and classify its perturbed versions."""
        self._add(trainer, pl_module, trainer.val_dataloaders, dataloader_idx, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explain the batch and classify its perturbed versions."""
        self._add(trainer, pl_module, trainer.test_dataloaders, dataloader_idx, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measures of the epoch."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measures of the epoch."""
        self._log(pl_module, "test")

    def _reset(self, pl_module: LightningModule) -> None:
        self._seen.clear()
        device = torch.device("cpu") if pl_module.device.type == "mps" else pl_module.device  # no float64 on MPS
        for mean in self.means.values():
            mean.reset()
            mean.to(device)

    def _add(self, trainer: Trainer, pl_module: LightningModule, loaders: Any, position: int, batch: Any) -> None:
        """Add the images that neither another process nor this one has counted."""
        seen = self._seen[position]
        self._seen[position] += len(batch["image"])
        first = slice(None)
        if trainer.world_size > 1:
            loader = loaders[position] if isinstance(loaders, list | tuple) else loaders
            first = first_time(loader, seen, len(batch["image"]))
        images = batch["image"][first]
        if not len(images):
            return
        indices = batch["index"][first] if "index" in batch else seen + torch.arange(len(images))
        classifier: Any = pl_module.classifier  # checked in setup
        explain: Any = pl_module.explain_batch
        self._rows = self._rows or PassRows(self.pass_rows, images.device)
        plain = plain_scores(classifier, images)
        maps = explain(images, plain.targets)
        passes = PassSettings(self._rows)
        scores = perturbed_scores(classifier, images, maps, plain.targets, indices, [self.perturbation], passes)
        device = next(iter(self.means.values())).device
        columns = {name: values.to(device) for name, values in {"p": plain.confidence, **scores.columns()}.items()}
        for mean in self.means.values():
            mean.update(columns)

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        for name, value in self.values().items():
            pl_module.log(f"{stage}/{name}", value, sync_dist=True)  # equal in all processes already


class AverageDropIncrease(MetricCallback):
    """Logs AD, IC and AG of a module's explanations, as ``val/minmax/AD_100``; see `MetricCallback`.

    Args:
        scalings: Scalings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.
        margin: p' must exceed p by more than this to count as an increase.
        pass_rows: Masked images per pass through the classifier; default: as many as fit.

    Raises:
        InputError: For scalings, keeps or a margin that cannot be used; when a run starts, for a module that cannot
            explain.
    """

    def __init__(
        self,
        scalings: Sequence[MapScaling] = ("minmax",),
        keeps: Sequence[float] = KEEPS,
        masking: MaskingKind | None = None,
        margin: float = MARGIN,
        pass_rows: int | None = None,
    ) -> None:
        super().__init__(MaskedConfidence(tuple(scalings), tuple(keeps), masking, margin), pass_rows)


class RemoveAndDebias(MetricCallback):
    """Logs ROAD of a module's explanations, as ``test/road/morf_confidence``; see `MetricCallback`.

    ``morf_kept`` and ``lerf_kept`` are the accuracy (top-1 unchanged); ``morf_confidence_10`` and so on are at single
    shares of removed pixels.

    Args:
        removes: Fractions of the pixels to remove, each in (0, 1].
        noise: Standard deviation of the noise on imputed pixels.
        seed: Seed of the noise.
        pass_rows: Imputed images per pass through the classifier; default: as many as fit.

    Raises:
        InputError: For fractions or noise out of range; when a run starts, for a module that cannot explain.
    """

    def __init__(
        self, removes: Sequence[float] = REMOVES, noise: float = NOISE, seed: int = 0, pass_rows: int | None = None
    ) -> None:
        super().__init__(ImputedConfidence(tuple(removes), noise=noise, seed=seed), pass_rows)


def first_time(loader: Any, seen: int, batch: int) -> slice:
    """Return which images of a batch are no repetitions by a `DistributedSampler`.

    The sampler assigns positions in turn, k * processes + rank, and fills the last turn by starting again.

    Args:
        loader: The loader of the batch.
        seen: Images that this process has had before, in this epoch.
        batch: Number of images in the batch.

    Returns:
        The part of the batch to count; all of it without a distributed sampler.
    """
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return slice(batch)
    length = len(sampler.dataset)  # type: ignore[arg-type] # the sampler itself needs its length
    turns = -(-(length - sampler.rank) // sampler.num_replicas)  # of this process, without repetitions
    return slice(max(0, min(batch, turns - seen)))
