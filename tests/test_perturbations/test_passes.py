"""Passes through the classifier: precision, memory, time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perturbed import everything, images, scores, some_maps
from tame.classifier import FrozenClassifier
from tame.perturbations import (
    PassRows,
    PassSettings,
    Perturbation,
    Stopwatch,
    perturbed_scores,
    plain_scores,
)
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


class Probe(Perturbation):
    """Yields the images as they are, and notes how it was called."""

    names = ("first", "second")

    def __init__(self) -> None:
        self.cast: list[bool] = []

    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        for _ in self.names:
            self.cast.append(torch.is_autocast_enabled("cpu") or (images.mT @ images).dtype != torch.float32)
            yield classifier.normalise(images)


class TestPrecision:
    @pytest.fixture
    def noted(self, toy_classifier: Make) -> Iterator[tuple[FrozenClassifier, list[torch.dtype]]]:
        """Yield a classifier and the types of its logits as they come."""
        classifier, types = toy_classifier(), []
        handle = classifier.module.register_forward_hook(lambda _module, _args, output: types.append(output.dtype))
        yield classifier, types
        handle.remove()

    @pytest.mark.parametrize(("precision", "expected"), [("bf16-mixed", torch.bfloat16), ("32", torch.float32)])
    def test_is_that_of_the_passes_alone(
        self, noted: tuple[FrozenClassifier, list[torch.dtype]], precision: str, expected: torch.dtype
    ) -> None:
        classifier, types = noted
        probe = Probe()
        targets = torch.zeros(5, dtype=torch.int64)
        found = perturbed_scores(
            classifier, images(), some_maps(), targets, torch.arange(5), [probe], PassSettings(PassRows(4), precision)
        )
        assert types == [expected] * 3
        assert probe.cast == [False, False]
        assert found.confidence.dtype == torch.float32

    @pytest.mark.parametrize(("precision", "expected"), [("bf16-mixed", torch.bfloat16), ("32", torch.float32)])
    def test_of_the_caller_does_not_reach_inside(
        self, noted: tuple[FrozenClassifier, list[torch.dtype]], precision: str, expected: torch.dtype
    ) -> None:
        classifier, types = noted
        probe = Probe()
        with torch.autocast("cpu", torch.float16):
            plain = plain_scores(classifier, images(), precision)
            given = (classifier, images(), some_maps(), plain.targets, torch.arange(5), [probe])
            perturbed_scores(*given, PassSettings(PassRows(10), precision))
        assert types == [expected] * 2 and probe.cast == [False, False]
        assert plain.logits.dtype == torch.float32

    def test_half_the_bits_give_nearly_the_same(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        expected, found = scores(classifier), scores(classifier, precision="bf16-mixed")
        torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=0.02)
        assert not torch.equal(found.confidence, expected.confidence)


class Full(nn.Module):
    """A network whose memory takes so many rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.tried.append(len(inputs))
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("full")
        return inputs.sum((1, 2, 3)).unsqueeze(1)


class TestPassRows:
    def test_halves_until_it_fits(self, caplog: pytest.LogCaptureFixture) -> None:
        rows, network = PassRows(20), Full(6)
        inputs = torch.rand(20, 3, 2, 2)
        with caplog.at_level(logging.INFO, logger="tame"):
            found = rows.classify(network, inputs)
        torch.testing.assert_close(found[:, 0], inputs.sum((1, 2, 3)))
        assert network.tried == [20, 10, 5, 5, 5, 5] and rows.rows == 5
        assert [record.message for record in caplog.records] == [
            "The device's memory is full: 10 images per pass from now on.",
            "The device's memory is full: 5 images per pass from now on.",
        ]

    def test_remembers_what_fits(self) -> None:
        rows, network = PassRows(8), Full(4)
        rows.classify(network, torch.rand(8, 3, 2, 2))
        network.tried.clear()
        rows.classify(network, torch.rand(9, 3, 2, 2))
        assert network.tried == [4, 4, 1]

    def test_a_row_that_does_not_fit_is_an_error(self) -> None:
        rows, network = PassRows(5), Full(0)
        with pytest.raises(torch.OutOfMemoryError, match="full"):
            rows.classify(network, torch.rand(5, 3, 2, 2))
        assert network.tried == [5, 2, 1] and rows.rows == 1

    def test_other_errors_are_not_about_memory(self) -> None:
        class Broken(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise RuntimeError("broken")

        rows = PassRows(8)
        with pytest.raises(RuntimeError, match="broken"):
            rows.classify(Broken(), torch.rand(8, 3, 2, 2))
        assert rows.rows == 8

    def test_scores_survive_a_full_memory(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        expected = scores(classifier)
        taken: list[int] = []

        def refuse(_module: nn.Module, args: tuple[Tensor]) -> None:
            taken.append(len(args[0]))
            if len(args[0]) > 4:
                raise torch.OutOfMemoryError("full")

        rows = PassRows(16)
        targets = classifier.logits(images()).argmax(1)
        handle = classifier.module.register_forward_pre_hook(refuse)
        found = perturbed_scores(
            classifier, images(), some_maps(), targets, torch.arange(5), everything(), PassSettings(rows)
        )
        handle.remove()
        torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=1e-5)
        assert rows.rows == 4 and taken == [16, 8] + [4] * 20

    @pytest.mark.parametrize(("rows", "device", "expected"), [(None, "cpu", 8), (None, "cuda", 256), (9, "cuda", 9)])
    def test_where_it_starts(self, rows: int | None, device: str, expected: int) -> None:
        assert PassRows(rows, device).rows == expected

    @pytest.mark.parametrize("rows", [-1, 0])
    def test_less_than_one(self, rows: int) -> None:
        message = rf"expected pass_rows of at least 1, got {rows}"
        with pytest.raises(InputError, match=message):
            PassRows(rows)


class TestStopwatch:
    def test_adds_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = iter([0.0, 2.0, 10.0, 11.0, 20.0, 23.5])
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
        watch = Stopwatch()
        for activity in ("explain", "classify", "explain"):
            with watch.timing(activity):
                pass
        assert watch.seconds == {"explain": 5.5, "classify": 1.0}

    def test_counts_what_fails(self) -> None:
        watch = Stopwatch()
        with pytest.raises(ValueError, match="broken"), watch.timing("explain"):
            time.sleep(0.01)
            raise ValueError("broken")
        assert watch.seconds["explain"] >= 0.01

    def test_of_scores(self, toy_classifier: Make) -> None:
        class Slow(Probe):
            def inputs(self, *arguments: Any) -> Iterator[Tensor]:
                for each in super().inputs(*arguments):
                    time.sleep(0.02)
                    yield each

        classifier, watch = toy_classifier(), Stopwatch()
        handle = classifier.module.register_forward_pre_hook(lambda *_: time.sleep(0.05))
        targets = torch.zeros(5, dtype=torch.int64)
        passes = PassSettings(PassRows(5), stopwatch=watch)
        perturbed_scores(classifier, images(), some_maps(), targets, torch.arange(5), [Slow()], passes)
        handle.remove()
        assert watch.seconds.keys() == {"perturb", "classify"}
        assert 0.04 <= watch.seconds["perturb"] < 0.1 <= watch.seconds["classify"]
