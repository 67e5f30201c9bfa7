"""Masked inputs: hand values, literal twin, names and order, the authors' numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.functional.masking import apply_mask, keep_top, min_max, rank_scale, upsample
from tame.functional.scores import confidences
from tame.metrics import AverageDrop, IncreaseInConfidence
from tame.perturbations import MaskedInputs, perturbed_scores, plain_scores
from tame.types import MapScaling, MaskingKind
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
KEEPS = (1.0, 0.5, 0.15)
SCALINGS: tuple[MapScaling, ...] = ("minmax", "rank")


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 5, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def masked(classifier: FrozenClassifier, maps: Tensor, masking: MaskingKind | None = "cnn") -> Tensor:
    """Return the confidences (scalings, keeps, B)."""
    given = images(len(maps))
    targets = classifier.logits(given).argmax(1)
    inputs = MaskedInputs(SCALINGS, KEEPS, masking)
    scores = perturbed_scores(classifier, given, maps, targets, torch.arange(len(maps)), [inputs])
    return scores.confidence.view(2, 3, -1)


def test_names_keeps_innermost() -> None:
    expected = ("minmax_100", "minmax_50", "minmax_15", "rank_100", "rank_50", "rank_15")
    assert MaskedInputs(SCALINGS, KEEPS).names == expected


def test_names_of_other_keeps() -> None:
    assert MaskedInputs(["rank"], [0.125, 0.07]).names == ("rank_12.5", "rank_7")


def test_no_metric_reads_if_the_class_survives() -> None:
    assert not MaskedInputs.reads_kept


@pytest.mark.parametrize(("masking", "removed"), [("cnn", -0.2 / 0.5), ("vit", 0.0)])
def test_by_hand(masking: MaskingKind, removed: float) -> None:
    """Score = sum of the normalised pixels; the map orders four pixels of one channel."""
    classifier = brightness_classifier(side=2, mean=0.2, std=0.5, channels=1)
    image = torch.tensor([[[[1.0, 0.8], [0.6, 0.4]]]])
    maps = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])  # min-max and ranks: [1, 1/3, 2/3, 0]
    inputs = MaskedInputs(SCALINGS, (1.0, 0.5, 0.25), masking)
    found = perturbed_scores(classifier, image, maps, torch.tensor([0]), torch.tensor([0]), [inputs]).confidence

    def score(weights: list[float]) -> float:
        total = 0.0
        for weight, pixel in zip(weights, (1.0, 0.8, 0.6, 0.4), strict=True):
            total += (weight * pixel - 0.2) / 0.5 if masking == "cnn" else weight * (pixel - 0.2) / 0.5
        return torch.tensor(total).sigmoid().item()

    third = 1 / 3
    expected = [score([1, third, 2 * third, 0]), score([1, 0, 2 * third, 0]), score([1, 0, 0, 0])]
    torch.testing.assert_close(found[:, 0], torch.tensor([*expected, *expected]))
    only = torch.tensor([0.8 / 0.5 + 3 * removed]).sigmoid().item()
    assert found[2, 0].item() == pytest.approx(only, abs=1e-6)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("masking", ["cnn", "vit"])
def test_literal_twin(toy_classifier: Make, kind: str, masking: MaskingKind) -> None:
    """One image, one scaling and one keep at a time."""
    classifier, maps = toy_classifier(kind), some_maps()
    found = masked(classifier, maps, masking)
    targets = classifier.logits(images()).argmax(1)
    for index in range(5):
        big = upsample(min_max(maps[[index]]), (32, 32))
        for row, scaled in enumerate((big, rank_scale(big))):
            for column, keep in enumerate(KEEPS):
                inputs = apply_mask(images()[[index]], keep_top(scaled, keep), classifier.normalise, masking)
                expected = classifier.module(inputs).softmax(1)[0, targets[index]]
                torch.testing.assert_close(found[row, column, index], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "own"), [("cnn", "cnn"), ("vit", "vit")])
def test_the_backbone_names_its_masking(toy_classifier: Make, kind: str, own: MaskingKind) -> None:
    classifier = toy_classifier(kind)
    assert torch.equal(masked(classifier, some_maps(), None), masked(classifier, some_maps(), own))
    other: MaskingKind = "cnn" if own == "vit" else "vit"
    assert not torch.equal(masked(classifier, some_maps(), None), masked(classifier, some_maps(), other))


class TestBrokenMaps:
    def broken(self) -> Tensor:
        maps = some_maps(6)
        maps[0, 3, 3] = float("nan")
        maps[1, 0, 0] = float("inf")
        maps[2] = float("-inf")
        maps[3] = 0.25
        maps[4, 0, :2] = torch.tensor([3e38, -3e38])  # each finite, their difference is not
        return maps

    def test_they_leave_the_image_as_it_is(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        found = masked(classifier, self.broken())
        plain = plain_scores(classifier, images(6)).confidence
        for keep in range(3):
            torch.testing.assert_close(found[0, keep, :5], plain[:5], rtol=0, atol=1e-6)
        assert (found[0, 1, 5] - plain[5]).abs() > 1e-4

    def test_ranks_of_a_constant_map_halve_the_image(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        found = masked(classifier, self.broken())
        half = classifier.logits(images(6) / 2)
        expected = confidences(half, classifier.logits(images(6)).argmax(1), "softmax")
        torch.testing.assert_close(found[1, 0, :5], expected[:5], rtol=0, atol=1e-6)

    def test_others_of_the_batch_do_not_notice(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        torch.testing.assert_close(
            masked(classifier, self.broken())[..., 5], masked(classifier, some_maps(6))[..., 5], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("scalings", "keeps", "message"),
    [
        (["minmax"], [15], r"expected keep, a fraction of the pixels, in \(0, 1\], got 15"),
        (["minmax"], [], r"expected different scalings and keeps, got \['minmax'\] and \[\]"),
        ([], [0.5], r"expected different scalings and keeps, got \[\] and \[0.5\]"),
        (["rank"], [0.5, 0.5], r"expected different scalings and keeps, got \['rank'\] and \[0.5, 0.5\]"),
        (["rank", "rank"], [0.5], r"expected different scalings and keeps"),
    ],
)
def test_errors(scalings: list[MapScaling], keeps: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskedInputs(scalings, keeps)


@pytest.mark.shared
def test_authors_end_to_end(shared_dir: Path) -> None:
    """Their classifier, images and raw maps: confidences, AD and IC."""
    path = shared_dir / "reference" / "authors_program" / "metrics_adic.pt"
    case = torch.load(path, weights_only=True)["adic_end_to_end"]
    net = nn.Sequential(
        nn.Conv2d(3, 6, 7, stride=4),
        nn.ReLU(),
        nn.Conv2d(6, 8, 5, stride=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    net.load_state_dict(case["state_dict"])
    spec = BackboneSpec("theirs", nn.Identity, Preprocessing(64, 64), class_names=tuple(map(str, range(10))))
    classifier = FrozenClassifier(spec, net, layers=["2"])
    given = case["images_normalized"] * classifier.std + classifier.mean
    targets, confidence, _ = plain_scores(classifier, given)
    assert torch.equal(targets, case["model_truth"])
    torch.testing.assert_close(confidence, case["confidence"], rtol=0, atol=1e-5)
    inputs = MaskedInputs(["minmax"], KEEPS)
    found = perturbed_scores(classifier, given, case["maps_raw"][:, 0], targets, torch.arange(10), [inputs])
    for index in range(3):
        torch.testing.assert_close(found.confidence[index], case["masked_confidence"][index], rtol=0, atol=1e-5)
        drop, increase = AverageDrop(), IncreaseInConfidence(margin=0.0)
        drop.update(confidence, found.confidence[index])
        increase.update(confidence, found.confidence[index])
        assert drop.compute().item() == pytest.approx(case["AD"][index], abs=1e-4)
        assert increase.compute().item() == pytest.approx(case["IC"][index], abs=1e-5)
