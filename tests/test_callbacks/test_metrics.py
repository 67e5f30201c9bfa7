"""AD, IC, AG and ROAD in Lightning runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from small_runs import Images, Module, request_for
from tame.attention import build_attention
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.callbacks.metrics import AverageDropIncrease, MetricCallback, RemoveAndDebias, first_time
from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation import Evaluation, Summary, run_evaluations
from tame.metrics import Deletion, ImputedConfidence, MaskedConfidence, Metric
from tame.training.module import AttentionModule
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
COUNT = 11
AD_IC = {
    f"{scaling}/{metric}_{keep}"
    for scaling in ("minmax", "rank")
    for metric in ("AD", "IC", "AG")
    for keep in (100, 50, 15)
}
ROAD = {
    f"road/{order}_{reading}{part}"
    for order in ("morf", "lerf")
    for reading in ("confidence", "kept")
    for part in ("", "_10", "_50", "_90")
}
REMOVES = (0.1, 0.5, 0.9)


def trainer(callback: MetricCallback, tmp_path: Path, **changes: Any) -> Trainer:
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
    return DataLoader(Images(COUNT), batch_size=batch_size)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


def evaluated(module: Any, out: Path, *metrics: Metric) -> Summary:
    """Evaluate the module's explanations without Lightning."""
    evaluation = Evaluation(
        lambda images, targets, _indices: module.explain_batch(images, targets),
        module.classifier,
        Images(COUNT),
        request_for(
            metrics or (MaskedConfidence(), ImputedConfidence(REMOVES)),
            [str(index) for index in range(COUNT)],
            batch_size=32,
        ),
        {},
        out,
    )
    return run_evaluations([evaluation])[0]


def values(summary: Summary, names: set[str], stage: str) -> dict[str, Any]:
    assert names <= set(summary.metrics)
    return {f"{stage}/{name}": pytest.approx(summary.metrics[name].value, abs=1e-3) for name in names}


@pytest.fixture
def ttame(toy_classifier: Make) -> AttentionModule:
    """The module that `tame train` trains, at random."""
    classifier = toy_classifier()
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    return AttentionModule(model.eval(), AttentionLoss("ranked"), max_lr=0.01)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_drop_and_increase_of_ttame_in_a_test(ttame: AttentionModule, tmp_path: Path, batch_size: int) -> None:
    callback = AverageDropIncrease(scalings=("minmax", "rank"), pass_rows=batch_size + 1)
    (logged,) = trainer(callback, tmp_path).test(ttame, loader(batch_size), verbose=False)
    assert logged == values(evaluated(ttame, tmp_path / "run"), AD_IC, "test")


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_road_of_ttame_in_a_test(ttame: AttentionModule, tmp_path: Path, batch_size: int) -> None:
    """The noise of an image depends on its index, not on its batch."""
    callback = RemoveAndDebias(removes=REMOVES, pass_rows=batch_size + 1)
    (logged,) = trainer(callback, tmp_path).test(ttame, loader(batch_size), verbose=False)
    assert logged == values(evaluated(ttame, tmp_path / "run"), ROAD, "test")


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_same_as_an_evaluation(toy_classifier: Make, tmp_path: Path, kind: str, inference_mode: bool) -> None:
    module = Module(toy_classifier(kind))
    summary = evaluated(module, tmp_path / "run")
    for callback, names in (
        (AverageDropIncrease(scalings=("minmax", "rank")), AD_IC),
        (RemoveAndDebias(removes=REMOVES), ROAD),
    ):
        (logged,) = trainer(callback, tmp_path, inference_mode=inference_mode).validate(
            module, loader(32), verbose=False
        )
        assert logged == values(summary, names, "val")


def test_both_together(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    run = trainer(AverageDropIncrease(scalings=("minmax", "rank")), tmp_path)
    run.callbacks.append(RemoveAndDebias(removes=REMOVES))  # type: ignore[attr-defined]
    (logged,) = run.test(module, loader(32), verbose=False)
    assert logged == values(evaluated(module, tmp_path / "run"), AD_IC | ROAD, "test")


def test_any_metric_of_the_registry(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    (logged,) = trainer(MetricCallback(Deletion(3)), tmp_path).test(module, loader(), verbose=False)
    assert logged == values(evaluated(module, tmp_path / "run", Deletion(3)), {"deletion/AUC"}, "test")


def test_batches_without_an_index_count_on(toy_classifier: Make, tmp_path: Path) -> None:
    class WithoutIndex(Images):
        def __getitem__(self, index: int) -> Any:
            return {"image": self.images[index]}

    module = Module(toy_classifier())
    batches: Any = DataLoader(WithoutIndex(COUNT), batch_size=4)
    (logged,) = trainer(RemoveAndDebias(removes=REMOVES), tmp_path).test(module, batches, verbose=False)
    (expected,) = trainer(RemoveAndDebias(removes=REMOVES), tmp_path).test(module, loader(4), verbose=False)
    assert logged == expected


def test_epochs_and_the_sanity_check_do_not_add_up(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    callback = AverageDropIncrease(scalings=("minmax", "rank"))
    run = trainer(callback, tmp_path, num_sanity_val_steps=2)
    run.fit(module, loader(32), loader(32))
    summary = evaluated(module, tmp_path / "run")
    for name in AD_IC:
        assert run.callback_metrics[f"val/{name}"].item() == pytest.approx(summary.metrics[name].value, abs=1e-3)
    assert all(mean.count == COUNT for mean in callback.means.values())


def test_several_loaders(toy_classifier: Make, tmp_path: Path) -> None:
    """All images of all loaders together."""
    callback = AverageDropIncrease(keeps=(0.125,))
    (first, *_) = trainer(callback, tmp_path).validate(Module(toy_classifier()), [loader(), loader()], verbose=False)
    assert set(first) == {"val/minmax/AD_12.5", "val/minmax/IC_12.5", "val/minmax/AG_12.5"}
    assert callback.means["minmax/AD_12.5"].count == 2 * COUNT


def test_masking_margin_noise_and_seed_are_used(toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    logged = [
        trainer(AverageDropIncrease(**changes), tmp_path).validate(module, loader(), verbose=False)[0]
        for changes in ({}, {"masking": "cnn"}, {"masking": "vit"}, {"margin": 1.0})
    ]
    assert logged[0] == logged[1]  # the backbone's own
    assert logged[2] != logged[0]
    assert logged[3]["val/minmax/IC_100"] == 0
    plain, *others = (
        trainer(RemoveAndDebias(removes=(0.5,), **changes), tmp_path).validate(module, loader(), verbose=False)[0]
        for changes in ({}, {"seed": 1}, {"noise": 0.0})
    )
    assert all(other["val/road/morf_confidence"] != plain["val/road/morf_confidence"] for other in others)


@pytest.mark.parametrize("callback", [AverageDropIncrease, RemoveAndDebias])
def test_images_that_a_distributed_sampler_repeats_count_once(
    toy_classifier: Make, tmp_path: Path, callback: Any
) -> None:
    """Four processes, one after the other: 12 images are dealt, of which 11 are different ones."""
    module, measures = Module(toy_classifier(), "random"), callback()
    measures.setup(None, module, "test")
    measures.on_test_epoch_start(None, module)
    for rank in range(4):
        sampler: Any = DistributedSampler(Images(COUNT), 4, rank, shuffle=False)
        batches = DataLoader(Images(COUNT), batch_size=2, sampler=sampler)
        measures._seen.clear()
        process: Any = SimpleNamespace(world_size=4, test_dataloaders=batches)
        for number, batch in enumerate(batches):
            measures.on_test_batch_start(process, module, batch, number)
    assert {int(mean.count) for mean in measures.means.values()} == {COUNT}
    alone = callback()
    (logged,) = trainer(alone, tmp_path).test(module, loader(), verbose=False)
    found = {f"test/{name}": value.item() for name, value in measures.values().items()}
    assert found == pytest.approx(logged, abs=1e-3)


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
    with pytest.raises(InputError, match="expected pass_rows of at least 1, got -1"):
        AverageDropIncrease(pass_rows=-1)
    with pytest.raises(InputError, match=r"expected remove, a fraction of the pixels, in \(0, 1\], got 10"):
        RemoveAndDebias(removes=(10,))
    with pytest.raises(InputError, match="expected noise of 0 or more, got -1"):
        RemoveAndDebias(noise=-1)
    for callback in (AverageDropIncrease, RemoveAndDebias):
        message = (
            rf"expected a spec of the classifier, as in {callback.__name__}\(spec, network='model'\), or "
            r"a module with a FrozenClassifier as .classifier and explain_batch\(images, targets\), "
            r"got no spec and Module"
        )
        for change in ({"classifier": nn.Identity()}, {"explain_batch": None}):
            module: Any = Module(toy_classifier())
            for name, value in change.items():
                setattr(module, name, value)
            with pytest.raises(InputError, match=message):
                trainer(callback(), tmp_path).validate(module, loader(), verbose=False)
        with pytest.raises(InputError, match="expected spec, a tame.BackboneSpec or None, got tuple"):
            callback(("minmax",))
