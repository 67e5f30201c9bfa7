"""ROAD: both orders, both readings, hand values, accumulation."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tame.metrics import ROAD
from tame.metrics.road import RoadReading
from tame.types import RemovalOrder
from tame.utils.checks import InputError

READINGS: tuple[RoadReading, ...] = ("confidence", "kept")
CONFIDENCE = torch.tensor([0.5, 1.0, 0.0, 0.25])
KEPT = torch.tensor([True, True, False, True])


def vectors(count: int = 67) -> tuple[Tensor, Tensor]:
    confidence = torch.rand(count, generator=torch.Generator().manual_seed(0))
    return confidence, confidence > 0.4


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize(("reading", "expected"), [("confidence", 43.75), ("kept", 75.0)])
def test_hand_values(order: RemovalOrder, reading: RoadReading, expected: float) -> None:
    metric = ROAD(order, 0.5, reading)
    metric.update(CONFIDENCE, KEPT)
    assert metric.compute().item() == expected


def test_the_confidence_is_the_reading_of_the_paper() -> None:
    assert ROAD("morf", remove=0.1).reading == "confidence"


@pytest.mark.parametrize("reading", READINGS)
def test_literal_twin(reading: RoadReading) -> None:
    confidence, kept = vectors()
    metric = ROAD("morf", 0.1, reading)
    metric.update(confidence, kept)
    values = confidence.tolist() if reading == "confidence" else [1.0 if one else 0.0 for one in kept.tolist()]
    assert metric.compute().item() == pytest.approx(100 * sum(values) / len(values), abs=1e-11)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("size", [1, 7, 32])
def test_batch_size_does_not_matter(reading: RoadReading, size: int) -> None:
    confidence, kept = vectors()
    whole, parts = ROAD("lerf", 0.1, reading), ROAD("lerf", 0.1, reading)
    whole.update(confidence, kept)
    for a, b in zip(confidence.split(size), kept.split(size), strict=True):
        parts.update(a, b)
    assert parts.compute().item() == pytest.approx(whole.compute().item(), abs=1e-11)


def test_either_order_says_how_to_read_it() -> None:
    """Also beside an instance of the other order, after a copy and after a pickle."""
    morf, lerf = ROAD("morf", 0.1), ROAD("lerf", 0.1)
    assert morf.higher_is_better is False
    assert lerf.higher_is_better is True
    assert lerf.clone().higher_is_better is True
    assert pickle.loads(pickle.dumps(morf)).higher_is_better is False  # noqa: S301 - our own bytes


@pytest.mark.parametrize(("reading", "nan"), [("confidence", True), ("kept", False)])
def test_nan_is_not_hidden(reading: RoadReading, nan: bool) -> None:
    """The other reading does not look at confidences."""
    metric = ROAD("morf", 0.1, reading)
    metric.update(torch.tensor([0.5, float("nan")]), torch.tensor([True, True]))
    assert math.isnan(metric.compute().item()) is nan


def test_everything_removed_is_allowed() -> None:
    assert ROAD("morf", remove=1).remove == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ROAD("morf", remove=10), r"expected remove, a fraction of the pixels, in \(0, 1\], got 10"),
        (lambda: ROAD("morf", remove=0), r"expected remove, a fraction of the pixels, in \(0, 1\], got 0"),
        (lambda: ROAD("morf", remove=math.nan), r"expected remove, a fraction of the pixels, in \(0, 1\], got nan"),
        (lambda: ROAD("MoRF", remove=0.1), "expected the order morf or lerf, got 'MoRF'"),  # type: ignore[arg-type]
        (lambda: ROAD("morf", 0.1, "top"), "expected the reading confidence or kept, got 'top'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings(make: Callable[[], ROAD], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("confidence", "kept", "came"),
    [
        (CONFIDENCE, KEPT[:3], r"\(4,\) and \(3,\) torch.bool"),
        (CONFIDENCE[None], KEPT[None], r"\(1, 4\) and \(1, 4\) torch.bool"),
        (CONFIDENCE, CONFIDENCE, r"\(4,\) and \(4,\) torch.float32"),
    ],
)
@pytest.mark.parametrize("reading", READINGS)
def test_wrong_batches(confidence: Tensor, kept: Tensor, came: str, reading: RoadReading) -> None:
    with pytest.raises(
        InputError, match=rf"expected confidences and a bool kept of shapes \(B,\) and \(B,\), got {came}"
    ):
        ROAD("morf", 0.1, reading).update(confidence, kept)
