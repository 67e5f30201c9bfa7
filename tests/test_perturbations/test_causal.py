"""Insertion and deletion: end points, step counts, hand values, literal twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from brightness import brightness_classifier
from literal_road import literal_removal
from tame.classifier import FrozenClassifier
from tame.functional.masking import min_max, upsample
from tame.perturbations import CausalInputs, perturbed_scores, plain_scores
from tame.types import CausalOrder
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
BOTH: tuple[CausalOrder, ...] = ("insertion", "deletion")


def images(batch: int = 3) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def some_maps(batch: int = 3, side: int = 7) -> Tensor:
    return torch.randn(batch, side, side, generator=torch.Generator().manual_seed(2))


def inputs(classifier: FrozenClassifier, kind: CausalOrder, steps: int) -> Tensor:
    perturbation = CausalInputs([kind], steps)
    return torch.stack(list(perturbation.inputs(classifier, images(), some_maps(), torch.arange(3))))


def literal_blur(pictures: Tensor) -> Tensor:
    """Weigh 11 x 11 pixels by exp(-distance^2 / (2 * 5^2)), the border reflected."""
    weights = torch.tensor([math.exp(-(place**2) / 50) for place in range(-5, 6)])
    kernel = weights.view(11, 1) * weights / weights.sum() ** 2
    padded = F.pad(pictures, (5, 5, 5, 5), mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, 11, 11), groups=3)


def test_names_one_per_step_and_end() -> None:
    expected = ("deletion_0", "deletion_1", "deletion_2", "insertion_0", "insertion_1", "insertion_2")
    assert CausalInputs(["deletion", "insertion"], 2).names == expected


def test_the_default_is_28_steps() -> None:
    assert len(CausalInputs(["insertion"]).names) == 29


def test_deletion_starts_with_the_image_and_ends_with_the_dataset_mean(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    found = inputs(classifier, "deletion", 5)
    assert torch.equal(found[0], classifier.normalise(images()))
    assert found[-1].eq(0).all()


def test_insertion_starts_with_the_blurred_image_and_ends_with_the_image(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    found = inputs(classifier, "insertion", 5)
    torch.testing.assert_close(found[0], classifier.normalise(literal_blur(images())), rtol=0, atol=1e-5)
    assert torch.equal(found[-1], classifier.normalise(images()))


@pytest.mark.parametrize("steps", [1, 3, 7, 28, 1024, 1500])
def test_steps_move_floor_of_their_share(toy_classifier: Make, steps: int) -> None:
    classifier = toy_classifier()
    perturbation = CausalInputs(["deletion"], steps)
    given = 0.9 + 0.1 * images(1)  # no pixel equals the mean
    found = perturbation.inputs(classifier, given, some_maps(1), torch.arange(1))
    moved = [int(each.eq(0).all(1).sum()) for each in found]
    assert moved == [step * 1024 // steps for step in range(steps + 1)]


@pytest.mark.parametrize("kind", BOTH)
def test_literal_twin(toy_classifier: Make, kind: CausalOrder) -> None:
    classifier = toy_classifier("vit")
    found = inputs(classifier, kind, 6)
    big = upsample(min_max(some_maps()), (32, 32))
    image = classifier.normalise(images())
    other = classifier.normalise(literal_blur(images())) if kind == "insertion" else torch.zeros_like(image)
    before, after = (image, other) if kind == "deletion" else (other, image)
    for step in range(7):
        for row in range(3):
            relevant = literal_removal(big[row], step / 6, "morf")
            expected = torch.where(relevant, after[row], before[row])
            torch.testing.assert_close(found[step, row], expected, rtol=0, atol=1e-5)


def test_deletion_by_hand() -> None:
    """Score = sum of the normalised pixels that are left, the brightest going first."""
    classifier = brightness_classifier(side=8, gain=0.1, mean=0.2, std=0.5, channels=1)
    image = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    inputs = CausalInputs(["deletion"], 4)
    found = perturbed_scores(classifier, image, image[:, 0], torch.tensor([0]), torch.tensor([0]), [inputs])
    left = [sum((pixel / 63 - 0.2) / 0.5 for pixel in range(64 - 16 * step)) for step in range(5)]
    torch.testing.assert_close(found.confidence[:, 0], (0.1 * torch.tensor(left)).sigmoid(), rtol=0, atol=1e-5)
    assert found.confidence[-1, 0].item() == 0.5  # nothing is left


def test_insertion_of_a_constant_image_changes_nothing() -> None:
    classifier = brightness_classifier(side=8, gain=0.01)
    image, relevance = torch.full((1, 3, 8, 8), 0.7), torch.rand(1, 4, 4)
    found = perturbed_scores(
        classifier, image, relevance, torch.tensor([0]), torch.tensor([0]), [CausalInputs(["insertion"], 4)]
    )
    expected = plain_scores(classifier, image).confidence.expand(5)
    torch.testing.assert_close(found.confidence[:, 0], expected, rtol=0, atol=1e-6)


def test_among_equals_the_lower_index_goes_first() -> None:
    classifier = brightness_classifier(side=8)
    perturbation = CausalInputs(["deletion"], 64)
    found = list(perturbation.inputs(classifier, torch.ones(1, 3, 8, 8), torch.ones(1, 3, 3), torch.tensor([0])))
    assert found[10][0, 0].flatten().tolist() == [0.0] * 10 + [1.0] * 54


@pytest.mark.parametrize(
    ("kinds", "steps", "message"),
    [
        ([], 28, r"expected insertion or deletion in at least one step, got \[\] in 28"),
        (["deletion"], 0, r"expected insertion or deletion in at least one step, got \['deletion'\] in 0"),
    ],
)
def test_errors(kinds: Any, steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CausalInputs(kinds, steps)
