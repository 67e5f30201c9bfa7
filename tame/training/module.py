"""The LightningModule: steps, logging and optimiser; the formulas are in `tame.attention`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn

from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier, TrainingPass
from tame.classifier import FrozenClassifier
from tame.data.dataset import Batch
from tame.training.optim import build_optimizer, build_schedule
from tame.types import MaskingKind
from tame.utils.checks import InputError
from tame.utils.seeds import mixed_seed

SMALLEST_KEEP = 0.1
"""The ranked loss keeps at least this fraction of the pixels, and at most all of them."""


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
        """Return the loss of a batch; its terms are logged as ``train/...``."""
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
        return self.loss(self._pass(images, keep, generator))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the terms, and how often the predicted class of the masked image is that of the image."""
        images = batch["image"]
        size = len(images)
        keep = torch.linspace(SMALLEST_KEEP, 1, size)
        result = self._pass(images, keep, torch.Generator().manual_seed(mixed_seed(self.seed, batch_idx)))
        terms = self.loss(result)
        kept = (result.masked_logits.argmax(1) == result.targets).float().mean()
        logged = {f"val/{name}": value for name, value in terms.items()} | {"val/masked_accuracy": kept}
        self.log_dict(logged, batch_size=size, sync_dist=True)

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

    def _pass(self, images: Tensor, keep: Tensor, generator: torch.Generator) -> TrainingPass:
        if self.loss.form == "ranked":
            return self.model.ranked_pass(images, keep.to(images.device), self.masking)
        return self.model.training_pass(images, self.other_classes, self.masking, generator)


def _norms(attention: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in attention.modules() if isinstance(part, nn.BatchNorm2d)]
