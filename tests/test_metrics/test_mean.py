"""What every torchmetrics class has in common: collections, processes, copies, resets."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchmetrics import Metric, MetricCollection

from tame.metrics import (
    ROAD,
    AverageDrop,
    AverageGain,
    Deletion,
    DeletionAUC,
    IncreaseInConfidence,
    InsertionAUC,
    MeasureMean,
)

MAKE: dict[str, Callable[[], Metric]] = {
    "AD_50": lambda: AverageDrop(keep=0.5),
    "AD_15": lambda: AverageDrop(keep=0.15),
    "IC": lambda: IncreaseInConfidence(keep=0.5),
    "IC_strict": lambda: IncreaseInConfidence(keep=0.5, margin=0.0),
    "IC_wide": lambda: IncreaseInConfidence(keep=0.5, margin=1e-10),  # to allclose the same margin as 0
    "AG_50": lambda: AverageGain(keep=0.5),
    "AG_15": lambda: AverageGain(keep=0.15),
    "morf_10": lambda: ROAD("morf", 0.1),
    "morf_20": lambda: ROAD("morf", 0.2),
    "morf_10_kept": lambda: ROAD("morf", 0.1, "kept"),
    "lerf_10": lambda: ROAD("lerf", 0.1),
    "lerf_10_kept": lambda: ROAD("lerf", 0.1, "kept"),
    "insertion": lambda: InsertionAUC(steps=2),
    "deletion": lambda: DeletionAUC(steps=2),
    "measure": lambda: MeasureMean(Deletion(steps=2).measures()[0]),
}
EVERY = pytest.mark.parametrize("name", MAKE)

# One batch for the whole collection.
FIRST = {
    "confidence": torch.tensor([0.0, 0.0]),
    "imputed": torch.tensor([0.0, 0.0]),
    "masked": torch.tensor([0.0, 0.0]),
    "kept": torch.tensor([False, False]),
    "confidences": torch.zeros(3, 2),
    "columns": {f"deletion_{step}_p": torch.zeros(2) for step in range(3)},
}
SECOND = {
    "confidence": torch.tensor([0.5, 0.5]),
    "imputed": torch.tensor([0.5, 0.5]),
    "masked": torch.tensor([0.25, 0.5 + 2**-20]),
    "kept": torch.tensor([True, False]),
    "confidences": (curves := torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.5, 0.5]])),
    "columns": {f"deletion_{step}_p": curve for step, curve in enumerate(curves)},
}


def batch(metric: Metric, values: dict[str, Any]) -> dict[str, Any]:
    """Return what ``metric`` asks for, as a collection does."""
    return metric._filter_kwargs(**values)


def full(name: str) -> Metric:
    """Return the metric after both batches."""
    metric = MAKE[name]()
    for values in (FIRST, SECOND):
        metric.update(**batch(metric, values))
    return metric


def test_collection_keeps_all_metrics_apart() -> None:
    """All states are equal after the first batch."""
    collection = MetricCollection({name: make() for name, make in MAKE.items()})
    collection.update(**FIRST)
    assert {(metric.total.item(), metric.count.item()) for metric in collection.values()} == {(0.0, 2)}
    assert len(collection.compute_groups) == len(MAKE)
    collection.update(**SECOND)
    found = {name: value.item() for name, value in collection.compute().items()}
    assert found == {name: full(name).compute().item() for name in MAKE}
    assert found["AD_50"] == 12.5  # 1/2 of four images
    assert found["AG_50"] == 100 * 2**-19 / 4
    assert (found["IC"], found["IC_strict"]) == (0.0, 25.0)
    assert (found["morf_10"], found["morf_10_kept"]) == (25.0, 25.0)
    assert found["insertion"] == found["measure"] == 100 * (0.625 + 0.125) / 4


def test_members_of_a_collection_can_be_fed_one_by_one() -> None:
    """As with ROAD at several shares of removed pixels, whose batches differ."""
    collection = MetricCollection({name: MAKE[name]() for name in ("morf_10", "morf_20", "lerf_10")})
    collection.update(torch.tensor([0.5]), torch.tensor([True]))
    for name, value in (("morf_10", 0.5), ("morf_20", 0.25), ("lerf_10", 1.0)):
        collection[name].update(torch.tensor([value]), torch.tensor([True]))
    found = {name: value.item() for name, value in collection.compute().items()}
    assert found == {"morf_10": 50.0, "morf_20": 37.5, "lerf_10": 75.0}


def test_equal_settings_are_equal_however_they_are_written() -> None:
    first, second = AverageDrop(keep=1), AverageDrop(keep=1.0)
    assert list(first.metric_state) == list(second.metric_state) == ["total", "count", "AverageDrop(keep=1.0)"]


@EVERY
def test_states_are_sums_and_counts(name: str) -> None:
    metric = full(name)
    total, count, meaning = metric.metric_state.values()
    assert (total.dtype, count.dtype) == (torch.float64, torch.int64)
    assert meaning == 0
    assert metric.full_state_update is False


@EVERY
def test_processes_add_up(name: str) -> None:
    """What `dist_reduce_fx` does over processes, without starting any."""
    first, second = MAKE[name](), MAKE[name]()
    first.update(**batch(first, FIRST))
    second.update(**batch(second, SECOND))
    for state, reduce in first._reductions.items():
        assert callable(reduce)
        setattr(first, state, reduce(torch.stack([getattr(first, state), getattr(second, state)])))
    assert first.compute() == full(name).compute()


@EVERY
@pytest.mark.parametrize("updated", [True, False])
def test_states_merge(name: str, updated: bool) -> None:
    """Also into a process that has seen no image."""
    first, second = MAKE[name](), full(name)
    if updated:
        first.update(**batch(first, SECOND))
    expected = full(name)
    if updated:
        expected.update(**batch(expected, SECOND))
    first.merge_state(second)
    assert first.metric_state == expected.metric_state
    assert first.total.dtype == torch.float64


def test_states_of_different_meaning_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"Expected state variable AverageDrop\(keep=0.5\) to be present"):
        full("AD_50").merge_state(full("AD_15"))
    with pytest.raises(ValueError, match=r"ROAD\(order=morf, remove=0.1, reading=confidence\) to be present"):
        full("morf_10").merge_state(full("morf_10_kept"))


@EVERY
def test_copies_are_whole_and_apart(name: str) -> None:
    metric = full(name)
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):  # noqa: S301 - our own bytes
        assert copy.compute() == metric.compute()
        assert copy.higher_is_better is metric.higher_is_better
        copy.update(**batch(copy, SECOND))
        assert copy.count == 6 and metric.count == 4


@EVERY
def test_reset_forgets(name: str) -> None:
    metric = full(name)
    metric.reset()
    assert all(value == 0 for value in metric.metric_state.values())
    metric.update(**batch(metric, SECOND))
    fresh = MAKE[name]()
    fresh.update(**batch(fresh, SECOND))
    assert metric.compute() == fresh.compute()


@EVERY
def test_house_rules(name: str) -> None:
    metric = full(name)
    assert metric.state_dict() == {}
    assert metric.is_differentiable is False
    assert isinstance(metric.higher_is_better, bool)
    assert (metric.plot_lower_bound, metric.plot_upper_bound) == (0.0, 100.0)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().shape == ()


@EVERY
def test_forward_gives_the_batch_and_keeps_the_sum(name: str) -> None:
    metric, alone = MAKE[name](), MAKE[name]()
    metric.update(**batch(metric, FIRST))
    alone.update(**batch(alone, SECOND))
    assert metric(**batch(metric, SECOND)) == alone.compute()
    assert metric.compute() == full(name).compute()


@EVERY
def test_empty_is_nan_with_a_warning(name: str) -> None:
    with pytest.warns(UserWarning, match="compute.* method of metric .* was called before"):
        assert math.isnan(MAKE[name]().compute().item())
