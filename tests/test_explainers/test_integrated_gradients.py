"""Integrated gradients: by hand, a loop over steps, completeness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from brightness import brightness_classifier
from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.integrated_gradients import IntegratedGradients
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])


def test_by_hand() -> None:
    """The logit is the sum of the normalised pixels: a pixel's map is its own normalised channels' sum."""
    classifier = brightness_classifier(side=4, mean=0.5, std=0.2)
    given = torch.rand(2, 3, 4, 4)
    maps = IntegratedGradients(classifier, steps=3, signed=True)(given, torch.tensor([0, 1]))
    torch.testing.assert_close(maps[0], ((given[0] - 0.5) / 0.2).sum(0))
    assert maps[1].eq(0).all()  # class 1 does not depend on the image


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_literal_twin(toy_classifier: Make, toy_images: Tensor, kind: str) -> None:
    classifier = toy_classifier(kind)
    maps = IntegratedGradients(classifier, steps=5, signed=True)(toy_images, TARGETS)
    for index, target in enumerate(TARGETS.tolist()):
        end = classifier.normalise(toy_images[[index]])
        expected = torch.zeros(32, 32)
        for step in (0.1, 0.3, 0.5, 0.7, 0.9):
            point = (step * end).requires_grad_()  # the baseline is zero after normalisation
            (gradient,) = torch.autograd.grad(classifier.module(point)[0, target], point)
            expected += (end * gradient)[0].sum(0) / 5
        torch.testing.assert_close(maps[index], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("kind", "within"), [("cnn", 0.02), ("vit", 0.5)])  # norms are steep at a grey image
def test_completeness(toy_classifier: Make, toy_images: Tensor, kind: str, within: float) -> None:
    """A signed map sums up to what the image adds to the logit; more steps come closer."""
    classifier = toy_classifier(kind).double()
    images = toy_images.double()
    baseline = classifier.mean.expand_as(images)
    added = (classifier.logits(images) - classifier.logits(baseline)).gather(1, TARGETS.unsqueeze(1))[:, 0]

    def error(steps: int) -> float:
        maps = IntegratedGradients(classifier, steps, signed=True)(images, TARGETS)
        return float((maps.sum((1, 2)) - added).abs().max() / added.abs().max())

    assert error(32) < within and error(8) > 10 * error(512)


@pytest.mark.parametrize("batch_size", [1, 5, 8, 1000])
def test_chunks_do_not_matter(toy_classifier: Make, toy_images: Tensor, batch_size: int) -> None:
    classifier = toy_classifier()
    expected = IntegratedGradients(classifier, steps=7)(toy_images, TARGETS)
    found = IntegratedGradients(classifier, steps=7, batch_size=batch_size)(toy_images, TARGETS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_how_many_images_pass_at_once(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier, seen = toy_classifier(), []
    handle = classifier.module.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    IntegratedGradients(classifier, steps=7, batch_size=12)(toy_images, TARGETS)
    handle.remove()
    assert seen == [12, 12, 4]


def test_sign(toy_classifier: Make, toy_images: Tensor) -> None:
    """The registered method takes 32 steps and cuts off what is negative, after the sum over channels."""
    classifier = toy_classifier()
    signed = IntegratedGradients(classifier, 32, signed=True)(toy_images, TARGETS)
    assert signed.min() < 0
    found = build_explainer(classifier, "integrated_gradients")(toy_images, TARGETS)
    assert torch.equal(found, signed.relu())


def test_bad_options(toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="expected at least 1 step and 1 image per pass, got 0 and 64"):
        IntegratedGradients(toy_classifier(), steps=0)
    with pytest.raises(InputError, match="got 32 and 0"):
        IntegratedGradients(toy_classifier(), batch_size=0)
