"""Methods of the user's own: both forms, from the working folder, gradients, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.user_code import UserExplainer, load_function
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([0, 4, 2, 2])
SOURCE = '''
import torch

number = 3


def plain(images, targets):
    return images.mean(1) + targets.view(-1, 1, 1)


def made(classifier):
    weights = torch.arange(classifier.spec.num_classes, dtype=torch.float32)
    return lambda images, targets: images.sum(1) * weights[targets].view(-1, 1, 1)


def with_options(images, targets, scale=2, *, offset=1):
    return scale * images.mean(1) + offset


class Gradients:
    """Needs a graph, and changes what it was given."""

    def __init__(self, classifier):
        self.classifier = classifier

    def __call__(self, images, targets):
        images.requires_grad_()
        scores = self.classifier.logits(images).gather(1, targets.unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(scores, images)
        with torch.no_grad():
            images.zero_()
        return gradient.abs().sum(1)

    @staticmethod
    def inner(images, targets):
        return images[:, 0]


def one_map(images, targets):
    return images[0, 0]


def three(images, targets, classes):
    return images


def none():
    return None


def forgets(classifier):
    classifier.spec
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package in the working folder, imported anew by each test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "methods.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    path = list(sys.path)
    yield "mine.methods"
    assert sys.path == path
    for name in ("mine", "mine.methods", "broken"):
        sys.modules.pop(name, None)


def explain(classifier: FrozenClassifier, name: str, images: Tensor) -> Tensor:
    return build_explainer(classifier, name)(images, TARGETS)


def test_a_function_of_images_and_targets(toy_classifier: Make, toy_images: Tensor, module: str) -> None:
    found = explain(toy_classifier(), f"{module}:plain", toy_images)
    torch.testing.assert_close(found, toy_images.mean(1) + torch.tensor([0.0, 4, 2, 2]).view(4, 1, 1))
    found = explain(toy_classifier(), f"{module}:with_options", toy_images)
    torch.testing.assert_close(found, 2 * toy_images.mean(1) + 1)
    assert torch.equal(explain(toy_classifier(), f"{module}:Gradients.inner", toy_images), toy_images[:, 0])


def test_a_function_of_the_classifier(toy_classifier: Make, toy_images: Tensor, module: str) -> None:
    found = explain(toy_classifier(), f"{module}:made", toy_images)
    torch.testing.assert_close(found, toy_images.sum(1) * torch.tensor([0.0, 4, 2, 2]).view(4, 1, 1))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_can_be_taken_and_the_images_stay(
    toy_classifier: Make, toy_images: Tensor, module: str, mode: Callable[[], torch.no_grad]
) -> None:
    classifier, before = toy_classifier(), toy_images.clone()
    with mode():
        images = toy_images + 0
        found = explain(classifier, f"{module}:Gradients", images)
    assert torch.equal(images, before) and not images.requires_grad
    assert found.shape == (4, 32, 32) and not found.requires_grad and (found > 0).any()
    leaf = before.clone().requires_grad_()
    classifier.logits(leaf)[torch.arange(4), TARGETS].sum().backward()
    torch.testing.assert_close(found, leaf.grad.abs().sum(1))


def test_a_function_by_itself(toy_classifier: Make, toy_images: Tensor) -> None:
    explainer = UserExplainer(toy_classifier(), lambda images, targets: images.amax(1))
    assert torch.equal(explainer(toy_images, TARGETS), toy_images.amax(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere_at_all:f",
            "expected package.module:function as the method, cannot import 'nowhere_at_all:f': No module",
        ),
        ("broken:f", "cannot import 'broken:f': No module named 'nowhere_to_be_found'"),
        ("mine.methods:plan", "cannot import 'mine.methods:plan': .* has no attribute 'plan'"),
        ("mine.methods:", "expected package.module:function as the method, cannot import 'mine.methods:'"),
        (":plain", "expected package.module:function as the method, cannot import ':plain'"),
        (
            "mine.methods:three",
            r"expected mine.methods:three to take \(images, targets\), or the classifier alone; it needs 3 arguments",
        ),
        ("mine.methods:none", "it needs 0 arguments"),
        ("mine.methods:number", "as the method, got 'mine.methods:number', a int"),
        ("torch:relu", "expected torch:relu to take .*; it needs 0 arguments"),
        (
            "mine.methods:forgets",
            r"expected mine.methods:forgets to return a function of \(images, targets\) for a classifier, got NoneType",
        ),
    ],
)
def test_what_is_no_method(toy_classifier: Make, module: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_function(name, toy_classifier())


def test_answers_and_requests_are_checked(toy_classifier: Make, toy_images: Tensor, module: str) -> None:
    with pytest.raises(InputError, match=r"expected float maps of shape \(4, h, w\), got \(32, 32\)"):
        explain(toy_classifier(), f"{module}:one_map", toy_images)
    with pytest.raises(InputError, match=r"expected images in \[0, 1\]"):
        explain(toy_classifier(), f"{module}:plain", 2 * toy_images)


def test_functions_take_no_arguments_of_methods(toy_classifier: Make, module: str) -> None:
    with pytest.raises(InputError, match="mine.methods:plain takes no argument 'masks'; it takes no arguments"):
        build_explainer(toy_classifier(), f"{module}:plain", masks=3)
    with pytest.raises(InputError, match="a method that is a function takes no argument 'masks'"):
        build_explainer(toy_classifier(), lambda images, targets: images.amax(1), masks=3)


def test_what_it_was_built_by(toy_classifier: Make, toy_images: Tensor, module: str) -> None:
    named = build_explainer(toy_classifier(), f"{module}:plain")
    assert (named.method, dict(named.arguments)) == ("mine.methods:plain", {})
    itself = build_explainer(toy_classifier(), lambda images, targets: images.amax(1))
    assert isinstance(itself, UserExplainer) and itself.method is None
    assert torch.equal(itself(toy_images, TARGETS), toy_images.amax(1))
