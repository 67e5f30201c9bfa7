"""The LightningModule: steps, logging and optimiser; the formulas are in `tame.attention`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn

from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.callbacks.metrics import first_time
from tame.classifier import FrozenClassifier
from tame.data.dataset import Batch
from tame.training.optim import build_optimizer, build_schedule
from tame.types import MaskingKind
from tame.utils.checks import InputError
from tame.utils.seeds import mixed_seed

SMALLEST_KEEP = 0.1
"""The ranked loss keeps at least this fraction of the pixels, and at most all of them."""

_GOLDEN = (5**0.5 - 1) / 2


class AttentionModule(LightningModule):
    """Trains the attention mechanism of an explained classifier.

    Its state is the attention mechanism alone: the frozen classifier is never saved and never changes.

    Args:
        model: Frozen classifier and attention mechanism.
        loss: Named terms of a training pass.
        max_lr: Peak of the one-cycle schedule.
        other_classes: See `ExplainedClassifier.training_pass`.
        masking: Masking of the second pass; None for the backbone's own.
        seed: Seed of what is drawn for a batch, together with the step: a resumed run draws the same.
        total_steps: Optimiser steps of the whole run. 0 lets Lightning count them; for that it creates the training
            loader before a checkpoint is restored, and a run can then not be resumed inside an epoch.
    """

    def __init__(
        self,
        model: ExplainedClassifier,
        loss: AttentionLoss,
        max_lr: float,
        other_classes: Literal["batch", "random"] = "batch",
        masking: MaskingKind | None = None,
        seed: int = 0,
        total_steps: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.max_lr = max_lr
        self.other_classes = other_classes
        self.masking = masking
        self.seed = seed
        self.total_steps = total_steps
        self.strict_loading = False  # checkpoints do not contain the classifier
        self._measures = (*loss.terms, "total", "masked_accuracy")

    @property
    def classifier(self) -> FrozenClassifier:
        """The frozen classifier."""
        return self.model.classifier

    def explain_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        """Explain ``targets`` (B,) on ``images`` (B, C, H, W): unscaled maps (B, h, w)."""
        return self.model.maps(images, targets)

    def on_fit_start(self) -> None:
        """Put the mechanism in train mode, so that batch norm follows the batches, only if batch norm is trained."""
        self.model.attention.train(any(norm.weight.requires_grad for norm in _norms(self.model.attention)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; its terms are logged as ``train/...``; without images it is 0."""
        if not len(batch["image"]):
            return torch.stack([value.sum() for value in self.model.attention.parameters()]).sum() * 0
        terms = self.training_terms(batch)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=False)
        self.log("loss", terms["total"], prog_bar=True, logger=False)
        if not torch.isfinite(terms["total"]):
            raise InputError(
                f"the loss is {terms['total'].item()} at step {self.global_step}: use a lower lr, or set clip"
            )
        return terms["total"]

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss of a training batch, and their sum as ``total``."""
        images = batch["image"]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, self.global_rank))
        keep = SMALLEST_KEEP + (1 - SMALLEST_KEEP) * torch.rand(len(images), generator=generator)
        if self.loss.form == "ranked":
            return self.loss(self.model.ranked_pass(images, keep.to(images.device), self.masking))
        return self.loss(self.model.training_pass(images, self.other_classes, self.masking, generator))

    def on_validation_epoch_start(self) -> None:
        """Forget earlier validations."""
        self._seen, self._sums = 0, torch.zeros(len(self._measures) + 1, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the terms, and how often the predicted class of the masked image is that of the image.

        Their means do not depend on the batch size and the number of processes: area and variation are those of the
        predicted class's map, and the fraction of the pixels that the ranked loss keeps depends on the image's index.
        """
        first = slice(None)
        if self.trainer.world_size > 1:
            first = first_time(self.trainer.val_dataloaders, self._seen, len(batch["image"]))
        self._seen += len(batch["image"])
        images = batch["image"][first]
        if not len(images):
            return
        if self.loss.form == "ranked":
            keep = SMALLEST_KEEP + (1 - SMALLEST_KEEP) * _spread(batch["index"][first])
            result = self.model.ranked_pass(images, keep.to(images.device), self.masking)
        else:
            result = self.model.training_pass(images, "none", self.masking)
        kept = (result.masked_logits.argmax(1) == result.targets).float().mean()
        means = self.loss(result) | {"masked_accuracy": kept, "images": torch.ones_like(kept)}
        self._sums += len(images) * torch.stack([means[name] for name in (*self._measures, "images")]).cpu()

    def on_validation_epoch_end(self) -> None:
        """Log the means over the images of all processes."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64  # no float64 on MPS
        *sums, count = self.trainer.strategy.reduce(self._sums.to(self.device, wide), reduce_op="sum")
        means = {f"val/{name}": value / count for name, value in zip(self._measures, sums, strict=True)}
        self.log_dict(means, sync_dist=True)  # equal in all processes already

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Do nothing: `Trainer.test` runs callbacks, such as `tame.callbacks.metrics.RemoveAndDebias`."""

    def configure_optimizers(self) -> Any:
        """Return SGD and its one-cycle schedule over all steps of the run."""
        optimizer = build_optimizer(self.model.attention, self.max_lr)
        steps = self.total_steps or max(1, int(self.trainer.estimated_stepping_batches))
        schedule = build_schedule(optimizer, self.max_lr, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the attention mechanism only."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if key.startswith("model.attention.")}


def _spread(indices: Tensor) -> Tensor:
    """Return a number in [0, 1) for each index: multiples of the golden ratio, spread evenly for any run of indices."""
    return indices.cpu().double().mul(_GOLDEN).frac().float()


def _norms(attention: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in attention.modules() if isinstance(part, nn.BatchNorm2d)]
