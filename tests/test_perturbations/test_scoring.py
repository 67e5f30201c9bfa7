"""Scores of plain and perturbed images: what they do not depend on, broken maps, checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from brightness import brightness_classifier
from perturbed import everything, images, scores, some_maps
from tame.classifier import FrozenClassifier
from tame.functional.scores import confidences
from tame.perturbations import (
    MaskedInputs,
    PassRows,
    PassSettings,
    Scores,
    perturbed_scores,
    plain_scores,
    usable_maps,
)
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


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

    def test_nothing_is_kept_where_the_confidence_is_nan(self) -> None:
        found = Scores(("morf_50",), torch.tensor([[0.5, math.nan]]), torch.tensor([[True, True]]))
        assert found.columns()["morf_50_kept"].tolist() == pytest.approx([1, math.nan], nan_ok=True)

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
