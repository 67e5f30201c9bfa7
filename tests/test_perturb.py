"""Masked passes: hand values, literal twin, batch sizes, broken maps, the authors' numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from tame.backbones import BackboneSpec, FrozenClassifier, Preprocessing
from tame.checks import InputError
from tame.functional.masking import apply_mask, keep_top, min_max, rank_scale, upsample
from tame.metrics import AverageDrop, IncreaseInConfidence
from tame.perturb import confidences, masked_confidences, plain_confidences, usable_maps
from tame.types import MapScaling, MaskingKind

Make = Callable[..., FrozenClassifier]
KEEPS = (1.0, 0.5, 0.15)
SCALINGS: tuple[MapScaling, ...] = ("minmax", "rank")


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 5, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def masked(classifier: FrozenClassifier, maps: Tensor, **changes: Any) -> Tensor:
    given = images(len(maps))
    options: dict[str, Any] = {"keeps": KEEPS, "scalings": SCALINGS, "masking": "cnn", "batch_size": 32} | changes
    return masked_confidences(classifier, given, maps, classifier.logits(given).argmax(1), **options)


def test_confidences_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).log_softmax(1)
    assert confidences(torch.zeros(1, 4), torch.tensor([3])).tolist() == [0.25]
    torch.testing.assert_close(confidences(logits, torch.tensor([0, 1]))[1].item(), 1 / (1 + 2.718281828459045**-1))


def test_confidences_are_float32_from_half() -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).half()
    found = confidences(logits, torch.arange(4))
    assert found.dtype == torch.float32
    assert torch.equal(found, logits.float().softmax(1)[range(4), range(4)])


def test_plain_confidences(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    targets, confidence, logits = plain_confidences(classifier, images())
    assert torch.equal(logits, classifier.logits(images()))
    assert targets.tolist() == [row.index(max(row)) for row in logits.tolist()]
    torch.testing.assert_close(confidence, logits.softmax(1).amax(1))


@pytest.mark.parametrize(("masking", "removed"), [("cnn", -0.2 / 0.5), ("vit", 0.0)])
def test_by_hand(masking: MaskingKind, removed: float) -> None:
    """Score = sum of the normalised pixels; the map orders four pixels of one channel."""
    classifier = brightness_classifier(side=2, mean=0.2, std=0.5, channels=1)
    image = torch.tensor([[[[1.0, 0.8], [0.6, 0.4]]]])
    maps = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]])  # min-max and ranks: [1, 1/3, 2/3, 0]
    found = masked_confidences(
        classifier,
        image,
        maps,
        torch.tensor([0]),
        keeps=(1.0, 0.5, 0.25),
        scalings=SCALINGS,
        masking=masking,
        batch_size=4,
    )

    def score(weights: list[float]) -> float:
        total = 0.0
        for weight, pixel in zip(weights, (1.0, 0.8, 0.6, 0.4), strict=True):
            total += (weight * pixel - 0.2) / 0.5 if masking == "cnn" else weight * (pixel - 0.2) / 0.5
        return torch.tensor(total).sigmoid().item()

    third = 1 / 3
    expected = [score([1, third, 2 * third, 0]), score([1, 0, 2 * third, 0]), score([1, 0, 0, 0])]
    torch.testing.assert_close(found[:, :, 0], torch.tensor([expected, expected]))
    only = torch.tensor([0.8 / 0.5 + 3 * removed]).sigmoid().item()
    assert found[0, 2, 0].item() == pytest.approx(only, abs=1e-6)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("masking", ["cnn", "vit"])
def test_literal_twin(toy_classifier: Make, kind: str, masking: MaskingKind) -> None:
    """One image, one scaling and one keep at a time."""
    classifier, maps = toy_classifier(kind), some_maps()
    found = masked(classifier, maps, masking=masking)
    assert found.shape == (2, 3, 5) and found.dtype == torch.float32
    targets = classifier.logits(images()).argmax(1)
    for index in range(5):
        big = upsample(min_max(maps[[index]]), (32, 32))
        for row, scaled in enumerate((big, rank_scale(big))):
            for column, keep in enumerate(KEEPS):
                inputs = apply_mask(images()[[index]], keep_top(scaled, keep), classifier.normalise, masking)
                expected = classifier.module(inputs).softmax(1)[0, targets[index]]
                torch.testing.assert_close(found[row, column, index], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 32])
def test_batch_size_does_not_matter(toy_classifier: Make, batch_size: int) -> None:
    classifier = toy_classifier()
    whole = masked(classifier, some_maps(), batch_size=1000)
    torch.testing.assert_close(masked(classifier, some_maps(), batch_size=batch_size), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "expected"), [(7, [7, 7, 7, 7, 2]), (30, [30]), (64, [30]), (1, [1] * 30)])
def test_batches_are_full(toy_classifier: Make, batch_size: int, expected: list[int]) -> None:
    classifier = toy_classifier()
    given, maps = images(), some_maps()
    rows: list[int] = []
    handle = classifier.module.register_forward_hook(lambda _module, args, _output: rows.append(len(args[0])))
    masked_confidences(
        classifier,
        given,
        maps,
        torch.zeros(5, dtype=torch.int64),
        keeps=KEEPS,
        scalings=SCALINGS,
        masking="cnn",
        batch_size=batch_size,
    )
    handle.remove()
    assert rows == expected


def test_order_of_keeps_and_scalings(toy_classifier: Make) -> None:
    classifier, maps = toy_classifier(), some_maps()
    whole = masked(classifier, maps)
    assert torch.equal(masked(classifier, maps, keeps=(0.15,), scalings=("rank",))[0, 0], whole[1, 2])
    torch.testing.assert_close(masked(classifier, maps, keeps=(0.5, 1.0))[0].flip(0), whole[0, :2])


class TestBrokenMaps:
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

    def test_they_leave_the_image_as_it_is(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        found = masked(classifier, self.broken())
        plain = plain_confidences(classifier, images(6)).confidence
        for keep in range(3):
            torch.testing.assert_close(found[0, keep, :5], plain[:5], rtol=0, atol=1e-6)
        assert (found[0, 1, 5] - plain[5]).abs() > 1e-4

    def test_ranks_of_a_constant_map_halve_the_image(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        found = masked(classifier, self.broken())
        half = classifier.logits(images(6) / 2)
        expected = confidences(half, classifier.logits(images(6)).argmax(1))
        torch.testing.assert_close(found[1, 0, :5], expected[:5], rtol=0, atol=1e-6)

    def test_others_of_the_batch_do_not_notice(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        torch.testing.assert_close(
            masked(classifier, self.broken())[..., 5], masked(classifier, some_maps(6))[..., 5], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "expected a batch size of 1 or more, got 0"),
        ({"keeps": (15,)}, r"expected keep, a fraction of the pixels, in \(0, 1\], got 15"),
        ({"keeps": ()}, r"expected at least one keep and one scaling, got \[\] and \['minmax', 'rank'\]"),
        ({"maps": torch.ones(5, 1, 7, 7)}, r"expected float maps of shape \(5, h, w\), got \(5, 1, 7, 7\)"),
        ({"maps": torch.ones(5, 7, 7, dtype=torch.int64)}, r"expected float maps .* torch.int64"),
    ],
)
def test_errors(toy_classifier: Make, changes: dict[str, Any], message: str) -> None:
    maps = changes.pop("maps", some_maps())
    with pytest.raises(InputError, match=message):
        masked(toy_classifier(), maps, **changes)


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
    targets, confidence, _ = plain_confidences(classifier, given)
    assert torch.equal(targets, case["model_truth"])
    torch.testing.assert_close(confidence, case["confidence"], rtol=0, atol=1e-5)
    found = masked_confidences(
        classifier,
        given,
        case["maps_raw"][:, 0],
        targets,
        keeps=KEEPS,
        scalings=("minmax",),
        masking="cnn",
        batch_size=4,
    )
    for index in range(3):
        torch.testing.assert_close(found[0, index], case["masked_confidence"][index], rtol=0, atol=1e-5)
        drop, increase = AverageDrop(), IncreaseInConfidence(margin=0.0)
        drop.update(confidence, found[0, index])
        increase.update(confidence, found[0, index])
        assert drop.compute().item() == pytest.approx(case["AD"][index], abs=1e-4)
        assert increase.compute().item() == pytest.approx(case["IC"][index], abs=1e-5)
