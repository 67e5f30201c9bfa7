"""AD, IC and ROAD in any Lightning run that can explain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MetricCollection

from tame.classifier import FrozenClassifier
from tame.metrics import ROAD, AverageDrop, AverageGain, IncreaseInConfidence
from tame.perturbations import ImputedInputs, MaskedInputs, PassRows, Perturbation, perturbed_scores, plain_scores
from tame.perturbations.imputed import NOISE, ORDERS, REMOVES
from tame.perturbations.names import imputed_name, masked_name, percent
from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError


class PerturbationCallback(Callback, ABC):
    """Explains, perturbs and classifies the images of validation and test, and logs metrics of what comes out.

    The module needs an attribute ``classifier`` (a `FrozenClassifier`), a method ``explain_batch(images, targets)``
    that returns unscaled maps (B, h, w), and batches with ``image``. The model truth of each image is explained.
    Sums go over all processes; an image that a distributed sampler repeats counts once.

    Args:
        perturbation: What is done to the images.
        metrics: Metrics of each perturbed version, by its name.
        pass_rows: Perturbed images per pass through the classifier; 0: as many as fit.

    Raises:
        InputError: When a run starts, for a module that cannot explain.
    """

    def __init__(self, perturbation: Perturbation, metrics: dict[str, MetricCollection], pass_rows: int = 0) -> None:
        PassRows(pass_rows)  # fail before any work
        self.perturbation, self.metrics, self.pass_rows = perturbation, metrics, pass_rows
        self._rows: PassRows | None = None
        self._seen: Counter[int] = Counter()  # images that this process has had, by loader

    @abstractmethod
    def update(self, metrics: MetricCollection, plain: Tensor, perturbed: Tensor, kept: Tensor) -> None:
        """Add p, p' and whether the class survived, (B,) each, to the metrics of one perturbed version."""

    @abstractmethod
    def values(self) -> dict[str, Tensor]:
        """Return what to log, by name."""

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
        """Explain the batch and classify what becomes of it."""
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
        """Explain the batch and classify what becomes of it."""
        self._add(trainer, pl_module, trainer.test_dataloaders, dataloader_idx, batch)

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

    def _add(self, trainer: Trainer, pl_module: LightningModule, loaders: Any, position: int, batch: Any) -> None:
        """Measure the images that no other process, nor this one, has counted already."""
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
        scores = perturbed_scores(
            classifier, images, maps, plain.targets, indices, [self.perturbation], rows=self._rows
        )
        for name, perturbed, kept in zip(*scores, strict=True):
            metrics = self.metrics[name]
            device = next(iter(metrics.values())).device
            self.update(metrics, plain.confidence.to(device), perturbed.to(device), kept.to(device))

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        for name, value in self.values().items():
            pl_module.log(f"{stage}/{name}", value, sync_dist=True)  # equal in all processes already


class AverageDropIncrease(PerturbationCallback):
    """Logs AD, IC and AG of a module's explanations, as ``val/minmax/AD_100``; see `PerturbationCallback`.

    Args:
        scalings: Readings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.
        margin: What counts as an increase in confidence.
        pass_rows: Masked images per pass through the classifier; 0: as many as fit.

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
        pass_rows: int = 0,
    ) -> None:
        self._read = {masked_name(scaling, keep): (scaling, keep) for scaling in scalings for keep in keeps}
        metrics = {
            name: MetricCollection(
                {"AD": AverageDrop(keep), "IC": IncreaseInConfidence(keep, margin), "AG": AverageGain(keep)}
            )
            for name, (_, keep) in self._read.items()
        }
        super().__init__(MaskedInputs(scalings, keeps, masking), metrics, pass_rows)

    def update(self, metrics: MetricCollection, plain: Tensor, perturbed: Tensor, kept: Tensor) -> None:
        """Add p and p'."""
        metrics.update(plain, perturbed)

    def values(self) -> dict[str, Tensor]:
        """Return ``minmax/AD_100`` and so on."""
        return {
            f"{scaling}/{metric}_{percent(keep)}": value
            for name, (scaling, keep) in self._read.items()
            for metric, value in self.metrics[name].compute().items()
        }


class RemoveAndDebias(PerturbationCallback):
    """Logs ROAD of a module's explanations, as ``test/road/morf_confidence``; see `PerturbationCallback`.

    ``morf_kept`` and ``lerf_kept`` are the other reading; ``morf_confidence_10`` and so on are single percentages.

    Args:
        removes: Fractions of the pixels to remove, each in (0, 1].
        noise: Standard deviation of the noise on imputed pixels.
        seed: Of the noise.
        pass_rows: Imputed images per pass through the classifier; 0: as many as fit.

    Raises:
        InputError: For fractions or noise out of range; when a run starts, for a module that cannot explain.
    """

    def __init__(
        self, removes: Sequence[float] = REMOVES, noise: float = NOISE, seed: int = 0, pass_rows: int = 0
    ) -> None:
        perturbation = ImputedInputs(removes, noise=noise, seed=seed)
        metrics = {
            imputed_name(order, remove): MetricCollection(
                {"confidence": ROAD(order, remove, "confidence"), "kept": ROAD(order, remove, "kept")}
            )
            for order in ORDERS
            for remove in removes
        }
        super().__init__(perturbation, metrics, pass_rows)
        self.removes = tuple(removes)

    def update(self, metrics: MetricCollection, plain: Tensor, perturbed: Tensor, kept: Tensor) -> None:
        """Add p' and whether the class survived."""
        metrics.update(perturbed, kept)

    def values(self) -> dict[str, Tensor]:
        """Return ``road/morf_confidence``, its parts, and so on."""
        found: dict[str, Tensor] = {}
        for order in ORDERS:
            parts = {remove: self.metrics[imputed_name(order, remove)].compute() for remove in self.removes}
            for reading in ("confidence", "kept"):
                name = f"road/{order}_{reading}"
                found[name] = torch.stack([values[reading] for values in parts.values()]).mean()
                found |= {f"{name}_{percent(remove)}": values[reading] for remove, values in parts.items()}
        return found


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
