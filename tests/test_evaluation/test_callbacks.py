"""AD and IC in Lightning runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.data.dataset import Sample
from tame.evaluation import evaluate
from tame.evaluation.callbacks import AverageDropIncrease, first_time
from tame.explainers import build_explainer
from tame.options import MethodOptions

Make = Callable[..., FrozenClassifier]
COUNT = 11
NAMES = {
    f"{scaling}/{metric}_{keep}" for scaling in ("minmax", "rank") for metric in ("AD", "IC") for keep in (100, 50, 15)
}


class Images(Dataset[Sample]):
    def __init__(self) -> None:
        self.images = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Sample:
        return Sample(image=self.images[index], label=-1, index=index)


class Module(LightningModule):
    """Explains by Grad-CAM, under whatever grad mode Lightning chooses."""

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.explainer = build_explainer(classifier, MethodOptions("gradcam"))
        self.weight = nn.Parameter(torch.zeros(1))

    def explain_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.explainer(images, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.weight - 1).square().sum()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(callback: AverageDropIncrease, tmp_path: Path, **changes: Any) -> Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_train_batches": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return Trainer(callbacks=[callback], **options | changes)


def loader(batch_size: int = 4) -> DataLoader[Sample]:
    return DataLoader(Images(), batch_size=batch_size)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


def expected(classifier: FrozenClassifier, out: Path, margin: float = 1e-5) -> dict[str, float]:
    summary = evaluate(
        build_explainer(classifier, MethodOptions("gradcam")),
        classifier,
        loader(COUNT),  # type: ignore[arg-type] # a loader of samples gives batches
        scalings=("minmax", "rank"),
        masking=classifier.spec.masking,
        margin=margin,
        batch_size=64,
        out=out,
        provenance={},
        progress=False,
    )
    return {name: estimate.value for name, estimate in summary.metrics.items()}


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_same_as_an_evaluation(toy_classifier: Make, tmp_path: Path, kind: str, inference_mode: bool) -> None:
    module = Module(toy_classifier(kind))
    callback = AverageDropIncrease(scalings=("minmax", "rank"))
    (logged,) = trainer(callback, tmp_path, inference_mode=inference_mode).validate(module, loader(), verbose=False)
    assert set(logged) == {f"val/{name}" for name in NAMES}
    for name, value in expected(module.classifier, tmp_path / "run").items():
        assert logged[f"val/{name}"] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_batch_sizes_do_not_matter(toy_classifier: Make, tmp_path: Path, size: int) -> None:
    module = Module(toy_classifier())
    callback = AverageDropIncrease(keeps=(0.15,), batch_size=size)
    (logged,) = trainer(callback, tmp_path).test(module, loader(size), verbose=False)
    values = expected(module.classifier, tmp_path / "run")
    assert logged == pytest.approx(
        {f"test/minmax/{name}_15": values[f"minmax/{name}_15"] for name in ("AD", "IC")}, abs=1e-3
    )


def test_epochs_and_the_sanity_check_do_not_add_up(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    callback = AverageDropIncrease(scalings=("minmax", "rank"))
    run = trainer(callback, tmp_path, num_sanity_val_steps=2)
    run.fit(module, loader(), loader())
    values = expected(module.classifier, tmp_path / "run")
    for name, value in values.items():
        assert run.callback_metrics[f"val/{name}"].item() == pytest.approx(value, abs=1e-3)
    assert all(metrics["AD"].count == COUNT for metrics in callback.metrics.values())


def test_several_loaders(toy_classifier: Make, tmp_path: Path) -> None:
    """All images of all loaders together."""
    callback = AverageDropIncrease(keeps=(0.125,))
    (first, *_) = trainer(callback, tmp_path).validate(Module(toy_classifier()), [loader(), loader()], verbose=False)
    assert set(first) == {"val/minmax/AD_12.5", "val/minmax/IC_12.5"}
    assert callback.metrics["minmax", 0.125]["AD"].count == 2 * COUNT


def test_masking_and_margin_are_used(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    logged = [
        trainer(AverageDropIncrease(**changes), tmp_path).validate(module, loader(), verbose=False)[0]
        for changes in ({}, {"masking": "cnn"}, {"masking": "vit"}, {"margin": 1.0})
    ]
    assert logged[0] == logged[1]  # the backbone's own
    assert logged[2] != logged[0]
    assert logged[3]["val/minmax/IC_100"] == 0


@pytest.mark.parametrize("count", [5, 8, 9, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("shuffle", [False, True])
def test_repetitions_of_a_distributed_sampler(count: int, batch_size: int, shuffle: bool) -> None:
    """Over all processes every image is counted exactly once."""
    counted: list[int] = []
    for rank in range(4):
        sampler: DistributedSampler[int] = DistributedSampler(range(count), 4, rank, shuffle=shuffle)  # type: ignore[arg-type]
        batches: DataLoader[int] = DataLoader(range(count), batch_size=batch_size, sampler=sampler)  # type: ignore[arg-type]
        seen = 0
        for batch in batches:
            counted += batch[first_time(batches, seen, len(batch))].tolist()
            seen += len(batch)
    assert sorted(counted) == list(range(count))


def test_without_a_distributed_sampler_all_count() -> None:
    assert first_time(loader(), 3, 4) == slice(4)
    assert first_time(None, 3, 4) == slice(4)


def test_errors(toy_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected keep, a fraction of the pixels, in \(0, 1\], got 15"):
        AverageDropIncrease(keeps=(15,))
    with pytest.raises(InputError, match="expected a margin of 0 or more, got -1"):
        AverageDropIncrease(margin=-1)
    module: Any = Module(toy_classifier())
    module.classifier = nn.Identity()
    with pytest.raises(InputError, match="expected a module with a FrozenClassifier as .classifier, got Module"):
        trainer(AverageDropIncrease(), tmp_path).validate(module, loader(), verbose=False)
    module = Module(toy_classifier())
    module.explain_batch = None
    with pytest.raises(InputError, match=r"expected a module with explain_batch\(images, targets\), got Module"):
        trainer(AverageDropIncrease(), tmp_path).validate(module, loader(), verbose=False)
