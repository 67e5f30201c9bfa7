"""Passes through the classifier: batch sizes, precision, memory, time, broken maps, checks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from tame.classifier import FrozenClassifier
from tame.functional.scores import confidences
from tame.perturbations import (
    CausalInputs,
    ImputedInputs,
    MaskedInputs,
    PassRows,
    PassSettings,
    Perturbation,
    Scores,
    Stopwatch,
    perturbed_scores,
    plain_scores,
    usable_maps,
)
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 5, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def everything() -> list[Perturbation]:
    """Return perturbations of 6 + 4 + 6 names."""
    return [
        MaskedInputs(["minmax", "rank"], [1.0, 0.5, 0.15]),
        ImputedInputs([0.1, 0.7]),
        CausalInputs(["insertion", "deletion"], 2),
    ]


def scores(classifier: FrozenClassifier, positions: range = range(5), **options: Any) -> Scores:
    rows = list(positions)
    given = images()[rows]
    targets = classifier.logits(given).argmax(1)
    perturbations = options.pop("perturbations", None) or everything()
    maps = options.pop("maps", some_maps())[rows]
    passes = PassSettings(**options)
    return perturbed_scores(classifier, given, maps, targets, torch.tensor(rows), perturbations, passes)


class TestConfidences:
    def test_by_hand(self) -> None:
        logits = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).log_softmax(1)
        assert confidences(torch.zeros(1, 4), torch.tensor([3]), "softmax").tolist() == [0.25]
        found = confidences(logits, torch.tensor([0, 1]), "softmax")[1].item()
        torch.testing.assert_close(found, 1 / (1 + 2.718281828459045**-1))

    def test_are_float32_from_half(self) -> None:
        logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).half()
        found = confidences(logits, torch.arange(4), "softmax")
        assert found.dtype == torch.float32
        assert torch.equal(found, logits.float().softmax(1)[range(4), range(4)])


def test_plain_scores(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    targets, confidence, logits = plain_scores(classifier, images())
    assert torch.equal(logits, classifier.logits(images()))
    assert targets.tolist() == [row.index(max(row)) for row in logits.tolist()]
    torch.testing.assert_close(confidence, logits.softmax(1).amax(1))


class TestScores:
    @pytest.mark.parametrize("kind", ["cnn", "vit"])
    @pytest.mark.parametrize("rows", [1, 3, 7, 1000])
    def test_rows_per_pass_do_not_matter(self, toy_classifier: Make, kind: str, rows: int) -> None:
        classifier = toy_classifier(kind)
        expected, found = scores(classifier), scores(classifier, rows=PassRows(rows))
        torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=1e-5)
        assert torch.equal(found.kept, expected.kept) and found.names == expected.names

    @pytest.mark.parametrize("kind", ["cnn", "vit"])
    @pytest.mark.parametrize("rows", [3, 1000])
    def test_images_that_come_together_do_not_matter(self, toy_classifier: Make, kind: str, rows: int) -> None:
        classifier = toy_classifier(kind)
        expected = scores(classifier)
        parts = [scores(classifier, part, rows=PassRows(rows)) for part in (range(0, 1), range(1, 4), range(4, 5))]
        found = torch.cat([part.confidence for part in parts], 1)
        torch.testing.assert_close(found, expected.confidence, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([part.kept for part in parts], 1), expected.kept)

    def test_perturbations_that_come_together_do_not_matter(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        together = scores(classifier)
        apart = [scores(classifier, perturbations=[each]) for each in everything()]
        assert together.names == tuple(name for part in apart for name in part.names)
        assert together.names[5:11] == ("rank_15", "morf_10", "morf_70", "lerf_10", "lerf_70", "insertion_0")
        torch.testing.assert_close(
            together.confidence, torch.cat([part.confidence for part in apart]), rtol=0, atol=1e-5
        )

    def test_shapes_and_types(self, toy_classifier: Make) -> None:
        names, confidence, kept = scores(toy_classifier())
        assert len(names) == 16 and confidence.shape == kept.shape == (16, 5)
        assert confidence.dtype == torch.float32 and kept.dtype == torch.bool
        assert not confidence.requires_grad

    @pytest.mark.parametrize(("rows", "expected"), [(7, [7] * 11 + [3]), (80, [80]), (100, [80]), (1, [1] * 80)])
    def test_passes_are_full(self, toy_classifier: Make, rows: int, expected: list[int]) -> None:
        classifier = toy_classifier()
        targets = torch.zeros(5, dtype=torch.int64)
        taken: list[int] = []
        handle = classifier.module.register_forward_hook(lambda _module, args, _output: taken.append(len(args[0])))
        perturbed_scores(
            classifier, images(), some_maps(), targets, torch.arange(5), everything(), PassSettings(PassRows(rows))
        )
        handle.remove()
        assert taken == expected

    def test_columns_of_a_run(self, toy_classifier: Make) -> None:
        found = scores(toy_classifier())
        columns = found.columns()
        assert list(columns) == [f"{name}_{kind}" for kind in ("p", "kept") for name in found.names]
        assert torch.equal(columns["morf_70_p"], found.confidence[7])
        assert torch.equal(columns["morf_70_kept"], found.kept[7])

    def test_the_target_is_what_is_asked_for(self) -> None:
        classifier = brightness_classifier(side=4, gain=0.1)
        bright = torch.full((2, 3, 4, 4), 0.5)
        inputs = MaskedInputs(["minmax"], [1.0])
        found = perturbed_scores(
            classifier, bright, torch.ones(2, 4, 4), torch.tensor([0, 1]), torch.arange(2), [inputs]
        )
        score = 1 / (1 + 2.718281828459045**-2.4)  # 0.1 * 48 values of 0.5
        assert found.confidence[0].tolist() == pytest.approx([score, 1 - score], abs=1e-6)
        assert found.kept[0].tolist() == [True, False]

    def test_broken_maps_leave_the_image_as_it_is(self, toy_classifier: Make) -> None:
        classifier, maps = toy_classifier(), some_maps()
        maps[2, 0, 0] = float("nan")
        found = scores(classifier, maps=maps).confidence
        plain = plain_scores(classifier, images()).confidence
        torch.testing.assert_close(found[:3, 2], plain[2].expand(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(found[:, 3], scores(classifier).confidence[:, 3], rtol=0, atol=1e-5)
        assert found.isfinite().all()

    def test_half_images_and_maps(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        arguments = torch.zeros(5, dtype=torch.int64), torch.arange(5), everything()
        found = perturbed_scores(classifier, images().half(), some_maps().half(), *arguments)
        expected = perturbed_scores(classifier, images().half().float(), some_maps().half().float(), *arguments)
        torch.testing.assert_close(found.confidence, expected.confidence, rtol=0, atol=1e-6)


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
        message = rf"expected rows per pass of 1 or more, or None \(as many as fit\), got {rows}"
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


class TestUsableMaps:
    def broken(self) -> Tensor:
        maps = some_maps(6)
        maps[0, 3, 3] = float("nan")
        maps[1, 0, 0] = float("inf")
        maps[2] = float("-inf")
        maps[3] = 0.25
        maps[4, 0, :2] = torch.tensor([3e38, -3e38])  # each finite, their difference is not
        return maps

    def test_flags(self) -> None:
        maps, constant, invalid = usable_maps(self.broken())
        assert invalid.tolist() == [True, True, True, False, True, False]
        assert constant.tolist() == [False, False, False, True, False, False]
        assert maps[invalid].eq(1).all() and torch.equal(maps[~invalid], self.broken()[~invalid])

    def test_the_argument_is_untouched(self) -> None:
        maps = self.broken()
        usable_maps(maps)
        assert maps[0].isnan().sum() == 1

    def test_are_float32_without_a_graph(self) -> None:
        for given in (some_maps().double(), some_maps().half(), some_maps().requires_grad_()):
            found = usable_maps(given).maps
            assert found.dtype == torch.float32 and not found.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": torch.ones(5, 1, 7, 7)}, r"expected float maps of shape \(5, h, w\), got \(5, 1, 7, 7\)"),
        ({"maps": torch.ones(5, 7, 7, dtype=torch.int64)}, r"expected float maps .* torch.int64"),
        (
            {"targets": torch.zeros(4, dtype=torch.int64)},
            r"targets of shape \(5,\) and type int64, got \(4,\)",
        ),
        ({"targets": torch.full((5,), 9)}, r"expected targets in 0\.\.4, got 9\.\.9"),
        ({"perturbations": []}, "expected at least one perturbation, got none"),
    ],
)
def test_errors(toy_classifier: Make, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "images": images(),
        "maps": some_maps(),
        "targets": torch.zeros(5, dtype=torch.int64),
        "indices": torch.arange(5),
        "perturbations": everything(),
    }
    with pytest.raises(InputError, match=message):
        perturbed_scores(toy_classifier(), **(arguments | changes))
