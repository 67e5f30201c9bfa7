"""Imputed inputs: hand values, literal twin, names and order, noise, the released program's space and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from literal_road import direct_imputation, literal_percentile_removal, literal_removal
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.functional.masking import min_max, upsample
from tame.perturbations import ImputedInputs, perturbed_scores, plain_scores
from tame.utils.checks import InputError
from toys import TOY_SPECS

Make = Callable[..., FrozenClassifier]
Space = Literal["image", "network"]


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 4, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def inputs(classifier: FrozenClassifier, indices: list[int] | None = None, **options: Any) -> Tensor:
    """Return all inputs (N, B, C, H, W) of images 0..3."""
    rows = list(range(4)) if indices is None else indices
    perturbation = ImputedInputs(**({"removes": (0.1, 0.5, 0.9)} | options))
    positions = torch.tensor(rows)
    return torch.stack(list(perturbation.inputs(classifier, images()[rows], some_maps()[rows], positions)))


def test_names_most_relevant_first_removes_innermost() -> None:
    perturbation = ImputedInputs([0.1, 0.125, 0.9])
    assert perturbation.names == ("morf_10", "morf_12.5", "morf_90", "lerf_10", "lerf_12.5", "lerf_90")
    assert perturbation.reads_kept


def test_the_default_is_roads() -> None:
    names = ImputedInputs().names
    assert names[:7] == ("morf_10", "morf_20", "morf_30", "morf_40", "morf_50", "morf_70", "morf_90")
    assert names[7:] == tuple(name.replace("morf", "lerf") for name in names[:7])


def test_by_hand() -> None:
    """Score = sum of the normalised pixels; of four pixels one is filled from the other three."""
    classifier = brightness_classifier(side=2, mean=0.25, std=0.5, channels=1)
    image = torch.tensor([[[[0.9, 0.1], [0.3, 0.2]]]])
    maps = torch.tensor([[[7.0, 1.0], [2.0, -1.0]]])
    perturbation = ImputedInputs([0.25], noise=0)
    found = perturbed_scores(classifier, image, maps, torch.tensor([0]), torch.tensor([0]), [perturbation])
    first = (0.1 / 6 + 0.3 / 6 + 0.2 / 12) / (5 / 12)  # replaces 0.9
    last = (0.1 / 6 + 0.3 / 6 + 0.9 / 12) / (5 / 12)  # replaces 0.2
    sums = torch.tensor([[first + 0.6], [1.3 + last]])
    torch.testing.assert_close(found.confidence, ((sums - 1) / 0.5).sigmoid(), rtol=0, atol=1e-5)
    assert found.kept.tolist() == [[False], [True]]
    assert found.names == ("morf_25", "lerf_25")


@pytest.mark.parametrize("selection", ["exact", "percentile"])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_literal_twin(toy_classifier: Make, kind: str, selection: Literal["exact", "percentile"]) -> None:
    """One image, one order and one fraction at a time, solved directly."""
    classifier = toy_classifier(kind)
    found = inputs(classifier, selection=selection, noise=0)
    big = upsample(min_max(some_maps()), (32, 32))
    literal = literal_removal if selection == "exact" else literal_percentile_removal
    for position, (order, remove) in enumerate((order, v) for order in ("morf", "lerf") for v in (0.1, 0.5, 0.9)):
        for row in range(4):
            filled = direct_imputation(images()[row], literal(big[row], remove, order)).float()
            expected = classifier.normalise(filled.unsqueeze(0))[0]
            torch.testing.assert_close(found[position, row], expected, rtol=0, atol=1e-4 / 0.2)


class TestNoise:
    def drawn(self, classifier: FrozenClassifier, indices: list[int], **options: Any) -> Tensor:
        """Return what the noise adds, in the units of the image."""
        return (inputs(classifier, indices, **options) - inputs(classifier, indices, noise=0)) * classifier.std

    def test_does_not_depend_on_the_batch(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        together = self.drawn(classifier, [0, 1, 2, 3])
        for order in ([2], [3, 2], [1, 2, 0]):
            found = self.drawn(classifier, order)[:, order.index(2)]
            torch.testing.assert_close(found, together[:, 2], rtol=0, atol=1e-6)

    def test_differs_between_positions_of_the_list(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        picture, relevance = images()[[0, 0]], some_maps()[[0, 0]]
        perturbation = ImputedInputs([0.9])
        first, second = next(perturbation.inputs(classifier, picture, relevance, torch.tensor([5, 6])))
        differs = (first != second).any(0).float().mean()
        assert differs.item() == pytest.approx(0.9, abs=0.01)

    def test_depends_on_the_seed(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        assert torch.equal(inputs(classifier, seed=3), inputs(classifier, seed=3))
        assert not torch.equal(inputs(classifier, seed=3), inputs(classifier, seed=4))

    def test_does_not_touch_the_generator_of_others(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        state = torch.get_rng_state()
        inputs(classifier)
        assert torch.equal(torch.get_rng_state(), state)

    def test_is_the_same_for_every_removed_set(self, toy_classifier: Make) -> None:
        added = self.drawn(toy_classifier(), [0, 1, 2, 3])
        both = (added[1] != 0) & (added[2] != 0)  # sets are nested
        torch.testing.assert_close(added[1][both], added[2][both], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("space", ["image", "network"])
    def test_is_a_hundredth_of_white_on_removed_pixels_alone(self, toy_classifier: Make, space: Space) -> None:
        added = self.drawn(toy_classifier(), [0, 1, 2, 3], space=space)
        assert (added.abs() > 1e-6).float().mean((1, 2, 3, 4)).tolist() == pytest.approx([0.1, 0.5, 0.9] * 2, abs=3e-3)
        noisy = added[2][added[2].abs() > 1e-6]
        assert noisy.std().item() == pytest.approx(0.01, rel=0.05) and noisy.mean().abs() < 1e-3

    def test_has_other_units_on_what_a_vit_is_fed(self, toy_classifier: Make) -> None:
        classifier = toy_classifier("vit")
        fed = inputs(classifier, space="network") - inputs(classifier, space="network", noise=0)
        torch.testing.assert_close(fed, self.drawn(classifier, [0, 1, 2, 3]), rtol=0, atol=2e-6)


class TestSpace:
    def test_without_noise_it_hardly_matters(self, toy_classifier: Make) -> None:
        """The equations are linear, so normalising before or after gives the same."""
        for kind in ("cnn", "vit"):
            classifier = toy_classifier(kind)
            network, image = inputs(classifier, space="network", noise=0), inputs(classifier, space="image", noise=0)
            torch.testing.assert_close(network, image, rtol=0, atol=1e-4 / 0.2)

    @pytest.mark.parametrize(
        ("kind", "space", "expected"),
        [
            ("cnn", "image", "mean"),
            ("vit", "image", "mean"),
            ("cnn", "network", "black"),  # zero before normalisation
            ("vit", "network", "dataset mean"),  # zero after it
        ],
    )
    def test_all_removed(self, toy_classifier: Make, kind: str, space: Space, expected: str) -> None:
        classifier = toy_classifier(kind)
        constant = torch.ones(2, 7, 7)  # every value reaches its percentile
        perturbation = ImputedInputs([0.1], "percentile", space, noise=0)
        found = torch.stack(list(perturbation.inputs(classifier, images(2), constant, torch.arange(2))))
        filled = {
            "mean": classifier.normalise(images(2).mean((2, 3), keepdim=True).expand(2, 3, 32, 32)),
            "black": classifier.normalise(torch.zeros(2, 3, 32, 32)),
            "dataset mean": torch.zeros(2, 3, 32, 32),
        }[expected]
        torch.testing.assert_close(found, filled.expand(2, -1, -1, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removes": [0.5, 10]}, r"expected remove, a fraction of the pixels, in \(0, 1\], got 10"),
        ({"removes": []}, r"expected different fractions of pixels to remove, got \[\]"),
        ({"removes": [0.5, 0.1, 0.5]}, r"expected different fractions of pixels to remove, got \[0.5, 0.1, 0.5\]"),
        ({"noise": -0.1}, "expected noise of 0 or more, got -0.1"),
        ({"noise": float("nan")}, "expected noise of 0 or more, got nan"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImputedInputs(**options)


@pytest.mark.shared
@pytest.mark.parametrize("masking", ["cnn", "vit"])
def test_authors_end_to_end(shared_dir: Path, masking: Literal["cnn", "vit"]) -> None:
    """Their classifier, images and raw maps without noise: class survives, and confidence, of every image.

    They impute what the network is fed. Here that is normalised, which makes no difference without noise.
    """
    folder = shared_dir / "reference" / "authors_program"
    case = torch.load(folder / "metrics_adic.pt", weights_only=True)["adic_end_to_end"]
    road = torch.load(folder / "road_metric.pt", weights_only=True)
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
    classifier = FrozenClassifier(replace(spec, masking=masking), net, layers=["2"])
    given = case["images_normalized"] * classifier.std + classifier.mean
    targets = plain_scores(classifier, given).targets
    perturbation = ImputedInputs(selection="percentile", space="network", noise=0)
    found = perturbed_scores(classifier, given, case["maps_raw"][:, 0], targets, torch.arange(10), [perturbation])
    for order, confidence, kept in zip(("morf", "lerf"), found.confidence.split(7), found.kept.split(7), strict=True):
        expected = road[order]
        torch.testing.assert_close(confidence, expected["noise_free_confidence_per_image"], rtol=0, atol=1e-4)
        assert torch.equal(kept, expected["noise_free_top1_agreement_per_image"])


def test_toys_are_masked_as_these_tests_assume() -> None:
    assert TOY_SPECS["cnn"].masking == "cnn" and TOY_SPECS["vit"].masking == "vit"
