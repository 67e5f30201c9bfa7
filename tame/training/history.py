"""What a run measures while it trains; it is saved with Lightning's checkpoints, so that a resumed run knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer


class History(Callback):
    """The loss of each optimiser step, and the validation metrics before the first and after each epoch.

    The metrics before training are those of the sanity check, which has to validate all images.

    Attributes:
        losses: Training loss of each step (of the main process, rank 0).
        validations: Metrics ``val/...`` by the number of epochs that were trained; 0 is the initialisation.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.validations: dict[int, dict[str, float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; of a batch of unreadable images there is none."""
        if len(batch["image"]):
            self.losses.append(round(float(outputs["loss"]), 6))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics, and log those before training, which Lightning does not log."""
        metrics = {
            name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        self.validations[0 if trainer.sanity_checking else trainer.current_epoch + 1] = metrics
        if trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.log_metrics(metrics | {"epoch": 0}, step=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"losses": list(self.losses), "validations": dict(self.validations)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.losses, self.validations = list(state_dict["losses"]), dict(state_dict["validations"])
