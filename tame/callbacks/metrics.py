"""Any metric of explanations in any Lightning run: AD and IC, ROAD, or a registered one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from tame.callbacks.network import ExplainingCallback, leave_no_trace
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.explainers.user_code import ExplainFunction
from tame.metrics import ImputedConfidence, MaskedConfidence, MeasureMean, Metric
from tame.metrics.ad_ic import KEEPS, MARGIN
from tame.perturbations import PassRows, PassSettings, perturbed_scores, plain_scores
from tame.perturbations.imputed import NOISE, REMOVES
from tame.types import Explainer, MapScaling, MaskingKind


class MetricCallback(ExplainingCallback):
    """Explains, perturbs and classifies the images of validation and test, and logs every measure of a metric.

    The predicted class of each image is explained. Sums go over all processes; an image that a distributed sampler
    repeats counts once. With a ``spec``, the network is copied once per validation, with the weights that it then has.

    Args:
        metric: The metric, such as ``tame.metrics.Deletion()``; its measures are logged as ``val/deletion/AUC``.
        spec: See `ExplainingCallback`, as for ``network``, ``method``, ``normalised`` and ``images_of``.
        network: Path of the user's classifier in the module, or the network.
        method: Explanation method.
        normalised: Whether the batches are normalised by the mean and std of the spec.
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1].
        pass_rows: Perturbed images per pass through the classifier; default: as many as fit.

    Raises:
        InputError: As `ExplainingCallback`.

    Example:
        >>> from tame.classifier import Preprocessing
        >>> from tame.metrics import Deletion
        >>> spec = BackboneSpec("mine", nn.Identity, Preprocessing(resize=32, crop=32), class_names=("ant", "bee"))
        >>> callback = MetricCallback(Deletion(), spec, network="parts.net")
    """

    def __init__(
        self,
        metric: Metric,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str | ExplainFunction = "gradcam",
        *,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
        pass_rows: int | None = None,
    ) -> None:
        PassRows(pass_rows)  # fail before any work
        super().__init__(spec, network, method, normalised=normalised, images_of=images_of)
        self.metric, self.perturbation, self.pass_rows = metric, metric.perturbation(), pass_rows
        self.means = {measure.name: MeasureMean(measure) for measure in metric.measures()}
        self._rows: PassRows | None = None
        self._seen: Counter[int] = Counter()  # images that this process has had, by loader
        self._explained: tuple[FrozenClassifier, Explainer] | None = None  # in this epoch

    def values(self) -> dict[str, Tensor]:
        """Return the measures over all images so far, by name."""
        return {name: mean.compute() for name, mean in self.means.items()}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier epochs and the sanity check."""
        self._reset(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier epochs."""
        self._reset(pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Explain the batch, before the module's step may change it, and classify its perturbed versions."""
        self._add(trainer, pl_module, trainer.val_dataloaders, dataloader_idx, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Explain the batch, before the module's step may change it, and classify its perturbed versions."""
        self._add(trainer, pl_module, trainer.test_dataloaders, dataloader_idx, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measures of the epoch."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measures of the epoch."""
        self._log(pl_module, "test")

    def _reset(self, pl_module: LightningModule) -> None:
        self._seen.clear()
        self._explained = None
        device = torch.device("cpu") if pl_module.device.type == "mps" else pl_module.device  # no float64 on MPS
        for mean in self.means.values():
            mean.reset()
            mean.to(device)

    def _add(self, trainer: Trainer, pl_module: LightningModule, loaders: Any, position: int, batch: Any) -> None:
        """Add the images that neither another process nor this one has counted."""
        with torch.inference_mode(False), torch.no_grad():
            images, _ = self.read(batch)
        seen, size = self._seen[position], len(images)
        self._seen[position] += size
        first = slice(None)
        if trainer.world_size > 1:
            loader = loaders[position] if isinstance(loaders, list | tuple) else loaders
            first = first_time(loader, seen, size)
        images = images[first]
        if not len(images):
            return
        numbered = isinstance(batch, Mapping) and "index" in batch
        indices = batch["index"][first] if numbered else seen + torch.arange(len(images))
        with leave_no_trace(images.device) if self.spec else nullcontext():
            columns = self._columns(pl_module, images, indices)
        for mean in self.means.values():
            mean.update(columns)

    def _columns(self, pl_module: LightningModule, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Return what the metric's measures read of images (B, C, H, W) with these ``indices`` (B,)."""
        classifier, explain = self._explained = self._explained or self.explained(pl_module)
        images = images.to(classifier.mean.device)
        self._rows = self._rows or PassRows(self.pass_rows, images.device)
        plain = plain_scores(classifier, images)
        maps = explain(images, plain.targets)
        passes = PassSettings(self._rows)
        scores = perturbed_scores(classifier, images, maps, plain.targets, indices, [self.perturbation], passes)
        device = next(iter(self.means.values())).device
        return {name: values.to(device) for name, values in {"p": plain.confidence, **scores.columns()}.items()}

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        self._explained = None
        for name, value in self.values().items():
            pl_module.log(f"{stage}/{name}", value, sync_dist=True)  # equal in all processes already


class AverageDropIncrease(MetricCallback):
    """Logs AD, IC and AG of explanations, as ``val/minmax/AD_100``; see `MetricCallback`.

    Args:
        spec: See `ExplainingCallback`, as for ``network``, ``method``, ``normalised`` and ``images_of``.
        network: Path of the user's classifier in the module, or the network.
        method: Explanation method.
        normalised: Whether the batches are normalised by the mean and std of the spec.
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1].
        pass_rows: Masked images per pass through the classifier; default: as many as fit.
        scalings: Scalings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking; None for the backbone's own.
        margin: p' must exceed p by more than this to count as an increase.

    Raises:
        InputError: For scalings, keeps or a margin that cannot be used, and as `ExplainingCallback`.
    """

    def __init__(
        self,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str | ExplainFunction = "gradcam",
        *,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
        pass_rows: int | None = None,
        scalings: Sequence[MapScaling] = ("minmax",),
        keeps: Sequence[float] = KEEPS,
        masking: MaskingKind | None = None,
        margin: float = MARGIN,
    ) -> None:
        super().__init__(
            MaskedConfidence(tuple(scalings), tuple(keeps), masking, margin),
            spec,
            network,
            method,
            normalised=normalised,
            images_of=images_of,
            pass_rows=pass_rows,
        )


class RemoveAndDebias(MetricCallback):
    """Logs ROAD of explanations, as ``test/road/morf_confidence``; see `MetricCallback`.

    ``morf_kept`` and ``lerf_kept`` are the accuracy (top-1 unchanged); ``morf_confidence_10`` and so on are at single
    shares of removed pixels.

    Args:
        spec: See `ExplainingCallback`, as for ``network``, ``method``, ``normalised`` and ``images_of``.
        network: Path of the user's classifier in the module, or the network.
        method: Explanation method.
        normalised: Whether the batches are normalised by the mean and std of the spec.
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1].
        pass_rows: Imputed images per pass through the classifier; default: as many as fit.
        removes: Fractions of the pixels to remove, each in (0, 1].
        noise: Standard deviation of the noise on imputed pixels.
        seed: Seed of the noise.

    Raises:
        InputError: For fractions or noise out of range, and as `ExplainingCallback`.
    """

    def __init__(
        self,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str | ExplainFunction = "gradcam",
        *,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
        pass_rows: int | None = None,
        removes: Sequence[float] = REMOVES,
        noise: float = NOISE,
        seed: int = 0,
    ) -> None:
        super().__init__(
            ImputedConfidence(tuple(removes), noise=noise, seed=seed),
            spec,
            network,
            method,
            normalised=normalised,
            images_of=images_of,
            pass_rows=pass_rows,
        )


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
