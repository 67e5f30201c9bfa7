"""AD, IC and AG: hand values, the authors' numbers, accumulation."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from tame.metrics import AverageDrop, AverageGain, IncreaseInConfidence
from tame.utils.checks import InputError

P = torch.tensor([0.5, 0.8, 0.2, 0.0])
MASKED = torch.tensor([0.25, 0.9, 0.2, 0.3])  # drops 1/2, 0, 0, 0 (p = 0 counts as no drop); two increases


def vectors(count: int = 67) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, generator=generator), torch.rand(count, generator=generator)


def test_hand_values() -> None:
    drop, increase = AverageDrop(keep=0.5), IncreaseInConfidence(keep=0.5, margin=0.0)
    drop.update(P, MASKED)
    increase.update(P, MASKED)
    assert drop.compute().item() == 12.5
    assert increase.compute().item() == 50.0


def test_gain_by_hand() -> None:
    """Half of what is missing, 0 for a drop, 0 where p = 1, all of it from p = 0: 100 * 1.5 / 4."""
    metric = AverageGain(keep=0.5)
    metric.update(torch.tensor([0.5, 0.5, 1.0, 0.0]), torch.tensor([0.75, 0.25, 1.0, 1.0]))
    assert metric.compute().item() == 37.5


@pytest.mark.parametrize("metric", [AverageDrop(), IncreaseInConfidence(), AverageGain()])
def test_literal_twin(metric: Metric) -> None:
    p, masked = vectors()
    metric.update(p, masked)
    pairs = list(zip(p.tolist(), masked.tolist(), strict=True))
    if isinstance(metric, AverageDrop):
        expected = 100 * sum(max(0.0, a - b) / a for a, b in pairs) / len(pairs)
    elif isinstance(metric, AverageGain):
        expected = 100 * sum(max(0.0, b - a) / (1 - a) for a, b in pairs) / len(pairs)
    else:
        expected = 100 * sum(b > a for a, b in pairs) / len(pairs)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", [AverageDrop, IncreaseInConfidence, AverageGain])
@pytest.mark.parametrize("size", [1, 7, 32])
def test_batch_size_does_not_matter(make: type[Metric], size: int) -> None:
    p, masked = vectors()
    whole, parts = make(), make()
    whole.update(p, masked)
    for a, b in zip(p.split(size), masked.split(size), strict=True):
        parts.update(a, b)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), abs=1e-6)


def test_a_short_last_batch_has_its_own_weight_only() -> None:
    metric = AverageDrop()
    metric.update(torch.full((9,), 0.5), torch.full((9,), 0.5))
    metric.update(torch.tensor([0.5]), torch.tensor([0.0]))
    assert metric.compute().item() == 10.0


@pytest.mark.parametrize("make", [AverageDrop, IncreaseInConfidence, AverageGain])
def test_processes_add_up(make: type[Metric]) -> None:
    """What `dist_reduce_fx` does over processes, without starting any."""
    p, masked = vectors(11)
    whole, first, second = make(), make(), make()
    whole.update(p, masked)
    first.update(p[:3], masked[:3])
    second.update(p[3:], masked[3:])
    for name, reduce in first._reductions.items():
        values = torch.stack([getattr(first, name), getattr(second, name)])
        assert callable(reduce)
        setattr(first, name, reduce(values))
    assert first.compute().item() == pytest.approx(whole.compute().item(), abs=1e-12)


def test_margin() -> None:
    """A gain of one rounding step counts only without a margin; a real gain counts with it."""
    p = torch.tensor([0.5, 0.5])
    masked = torch.tensor([0.5 + 2**-24, 0.6])
    masked[0] = torch.nextafter(p[0], torch.tensor(1.0))
    for margin, expected in ((0.0, 100.0), (1e-5, 50.0)):
        metric = IncreaseInConfidence(margin=margin)
        metric.update(p, masked)
        assert metric.compute().item() == expected


@pytest.mark.parametrize("make", [AverageDrop, IncreaseInConfidence, AverageGain])
def test_empty_is_nan_with_a_warning(make: type[Metric]) -> None:
    with pytest.warns(UserWarning, match="compute.* method of metric .* was called before"):
        assert math.isnan(make().compute().item())


@pytest.mark.parametrize("make", [AverageDrop, IncreaseInConfidence, AverageGain])
def test_house_rules(make: type[Metric]) -> None:
    metric = make()
    metric.update(P, MASKED)
    again = pickle.loads(pickle.dumps(metric))  # noqa: S301 - our own bytes
    assert again.compute() == metric.compute()
    assert metric.state_dict() == {}
    assert metric.is_differentiable is False
    assert metric.higher_is_better is (make is not AverageDrop)
    assert metric.compute().dtype == torch.float64
    metric.reset()
    assert metric.total == 0 and metric.count == 0


def test_float64_sums() -> None:
    """A million small drops survive; a float32 sum would lose them."""
    metric = AverageDrop()
    for _ in range(100):
        metric.update(torch.ones(10_000), torch.full((10_000,), 1 - 2**-20))
    assert metric.compute().item() == pytest.approx(100 * 2**-20, rel=1e-12)


@pytest.mark.parametrize("make", [AverageDrop, AverageGain])
def test_nan_is_not_hidden(make: type[Metric]) -> None:
    metric = make()
    metric.update(torch.tensor([0.5, float("nan")]), torch.tensor([0.5, 0.5]))
    assert math.isnan(metric.compute().item())


def test_collection_keeps_metrics_apart() -> None:
    """AD and ICs of different margins start with equal sums here; they must not be merged for good."""
    collection = MetricCollection(
        {
            "AD": AverageDrop(),
            "IC0": IncreaseInConfidence(margin=0.0),
            "IC5": IncreaseInConfidence(margin=1e-5),
        }
    )
    same, tiny = torch.tensor([0.5]), torch.tensor([0.5 + 1e-6])
    collection.update(same, same)
    collection.update(same, tiny)
    collection.update(same, torch.tensor([0.25]))
    found = {name: value.item() for name, value in collection.compute().items()}
    assert found == pytest.approx({"AD": 50 / 3, "IC0": 100 / 3, "IC5": 0.0})


def test_errors() -> None:
    with pytest.raises(InputError, match=r"expected keep, a fraction of the pixels, in \(0, 1\], got 50"):
        AverageDrop(keep=50)
    with pytest.raises(InputError, match=r"expected keep, a fraction of the pixels, in \(0, 1\], got 0"):
        AverageGain(keep=0)
    with pytest.raises(InputError, match="expected a margin of 0 or more, got -1"):
        IncreaseInConfidence(margin=-1)
    with pytest.raises(InputError, match=r"shapes \(B,\) and \(B,\), got \(4,\) and \(3,\)"):
        AverageDrop().update(P, MASKED[:3])


@pytest.mark.shared
def test_authors_vectors(shared_dir: Path) -> None:
    path = shared_dir / "reference" / "authors_program" / "metrics_adic.pt"
    for case in torch.load(path, weights_only=True)["adic_vectors"]:
        drop, increase = AverageDrop(), IncreaseInConfidence(margin=0.0)
        drop.update(case["original"], case["masked"])
        increase.update(case["original"], case["masked"])
        assert drop.compute().item() == pytest.approx(case["AD"], abs=1e-4)
        assert increase.compute().item() == pytest.approx(case["IC"], abs=1e-4)
