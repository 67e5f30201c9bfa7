"""Lightning runs of toy classifiers, for callbacks that draw explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tame.callbacks.explanations import ExplanationLogger, _Seen
from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from toys import TOY_SPECS, seeded

Make = Callable[..., FrozenClassifier]
COUNT = 12
SPEC = TOY_SPECS["cnn"]
MEAN = torch.tensor(SPEC.preprocessing.mean).view(3, 1, 1)
STD = torch.tensor(SPEC.preprocessing.std).view(3, 1, 1)


def images(count: int = COUNT) -> Tensor:
    """Noise with a bright square; the label says in which of five places."""
    values = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 0.4
    for index, (row, column) in enumerate([(2, 2), (2, 20), (12, 12), (20, 2), (20, 20)] * count):
        if index < count:
            values[index, :, row : row + 10, column : column + 10] += 0.6
    return values


class Training(LightningModule):
    """Trains a toy, as a user would who has never heard of this package."""

    def __init__(self, kind: str = "cnn") -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"net": seeded(TOY_SPECS[kind]).build()})

    @property
    def net(self) -> Any:
        return self.parts["net"]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch.values() if isinstance(batch, Mapping) else batch
        return F.cross_entropy(self.net(inputs), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Explaining(LightningModule):
    """Explains itself, as our own modules do."""

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.explainer = build_explainer(classifier, "gradcam")

    def explain_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.explainer(images, targets)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


def trainer(callback: ExplanationLogger | None, folder: Path, **changes: Any) -> Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": [callback] if callback else [],
    }
    return Trainer(**options | changes)


def pairs(batch_size: int = 4, shuffle: bool = False, normalised: bool = True) -> DataLoader[Any]:
    values = (images() - MEAN) / STD if normalised else images()
    data = [(value, index % 5) for index, value in enumerate(values)]
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)  # type: ignore[arg-type]


def dicts(batch_size: int = 4, label: int = -1) -> DataLoader[Any]:
    return DataLoader([{"image": image, "label": label} for image in images()], batch_size=batch_size)  # type: ignore[arg-type]


def loader(first: Any, label: Any = 0) -> DataLoader[Any]:
    return DataLoader([(first, label)])  # type: ignore[arg-type]


def drawn(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "explanations").iterdir())


class Spy(ExplanationLogger):
    """Keeps what it draws: images, labels, and titles."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: list[_Seen] = []

    def _draw(self, pl_module: LightningModule) -> Image.Image:
        self.shown = list(self._seen)
        return super()._draw(pl_module)
