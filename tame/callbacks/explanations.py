"""Pictures of explanations in any Lightning run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn

from tame.callbacks.network import ExplainingCallback, leave_no_trace
from tame.classifier import BackboneSpec
from tame.classifier.locks import network_lock
from tame.data import channels_to_photo
from tame.explainers.user_code import ExplainFunction
from tame.functional.masking import drawable
from tame.functional.scores import scores
from tame.utils.checks import InputError
from tame.utils.io import replacing
from tame.visualize import grid, overlay

_SIDE = 200  # side of one picture in pixels


class _Seen(NamedTuple):
    """Images (B, C, H, W) in [0, 1] and their labels, -1 where unknown."""

    images: Tensor
    labels: list[int]


class ExplanationLogger(ExplainingCallback):
    """Draws the first images of validation and test with explanations of their predicted classes.

    Images are above and overlays below, with the predicted class, its confidence and the label as titles. The picture
    is written to ``explanations/val-epoch=3-step=120.png`` in the run's folder, and logged as ``val/explanations`` to
    TensorBoard, Weights & Biases and MLflow. The sanity check draws nothing, but refuses batches that cannot be drawn.
    Only the main process (rank 0) draws, and only images of the first loader. If an explanation fails, its error ends
    the run.

    Args:
        spec: See `ExplainingCallback`, as for ``network``, ``method``, ``normalised`` and ``images_of``.
        network: Path of the user's classifier in the module, or the network.
        method: Explanation method.
        n: Number of images.
        every_n_epochs: During training, draw the first of so many validations; other runs always draw.
        normalised: Whether the batches are normalised by the mean and std of the spec.
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1].

    Raises:
        InputError: For an ``n`` or ``every_n_epochs`` below 1, and as `ExplainingCallback`.
    """

    def __init__(
        self,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str | ExplainFunction = "gradcam",
        n: int = 8,
        every_n_epochs: int = 1,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
    ) -> None:
        for name, value in (("n", n), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise InputError(f"expected {name} of 1 or more, got {value}")
        super().__init__(spec, network, method, normalised=normalised, images_of=images_of)
        self.n = n
        self.every_n_epochs = every_n_epochs
        self._validations = 0  # number of validations during training, without the sanity check
        self._due = False
        self._seen: list[_Seen] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether to draw this validation."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._seen, self._due = [], not fitting or self._validations % self.every_n_epochs == 0
        self._validations += fitting

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard images of earlier runs."""
        self._seen, self._due = [], True

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the batch's images while fewer than ``n`` are kept."""
        missing = self.n - sum(len(seen.images) for seen in self._seen)
        if self._due and missing > 0 and dataloader_idx == 0 and trainer.is_global_zero:
            with torch.inference_mode(False), torch.no_grad():
                self._seen.append(self._read(batch, missing))

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        self._log(trainer, pl_module, "test")

    def _read(self, batch: Any, count: int) -> _Seen:
        """Return the first ``count`` images, copied since the module's step may change the batch."""
        images, labels = self.read(batch)
        spec, size = self.explained_spec, len(images)
        known = isinstance(labels, Tensor) and labels.shape == (size,) and "int" in str(labels.dtype)
        chosen = labels[:count].tolist() if known else [-1] * len(images[:count])
        if chosen and max(chosen) >= spec.num_classes:
            raise InputError(f"expected labels below {spec.num_classes}, the classes of {spec.name}, got {max(chosen)}")
        return _Seen(images[:count].clone(), chosen)

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._due or trainer.sanity_checking:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir, "explanations")  # log_dir needs every process
        if not self._seen:  # not the main process, or no image
            return
        epoch, step = trainer.current_epoch, trainer.global_step
        module: Any = pl_module
        lock = nullcontext() if self.spec else network_lock(module.classifier.module)
        with lock, leave_no_trace(self._seen[0].images.device):
            picture = self._draw(pl_module)
        self._seen = []
        path = folder / f"{stage}-epoch={epoch}-step={step}.png"
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{stage}/explanations", np.asarray(picture), step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"{stage}/explanations", [picture], step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, picture, f"explanations/{path.name}")

    def _draw(self, pl_module: LightningModule) -> Image.Image:
        """Explain the predicted classes of the kept images, and return the picture."""
        classifier, explain = self.explained(pl_module)
        names, pictures, overlays, titles = classifier.spec.class_names, [], [], []
        for seen in self._seen:  # batch by batch: sizes may differ
            images = seen.images.to(classifier.mean.device)
            confidences, predicted = scores(classifier.logits(images), classifier.spec.score).max(1)
            maps, notes = drawable(explain(images, predicted).float())
            pictures += [channels_to_photo(image) for image in images]
            overlays += [overlay(picture, each) for picture, each in zip(pictures[-len(maps) :], maps, strict=True)]
            columns = predicted.tolist(), confidences.tolist(), seen.labels, notes
            for index, confidence, label, note in zip(*columns, strict=True):
                true = f", true: {names[label]} ({label})" if label >= 0 else ""
                titles.append(f"{names[index]} ({index}) {100 * confidence:.1f} %{true}{f', {note}' if note else ''}")
        return grid([pictures, overlays], column_titles=titles, side=_SIDE)
