"""The registry, and what every registered method promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers import EXPLAINERS, CheckedExplainer, build_explainer
from tame.explainers.learned import LEARNED
from tame.explainers.lrp import TRANSFORMERS_ONLY
from tame.options import MethodOptions
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
UNTRAINED = [name for name in EXPLAINERS if name not in LEARNED]  # those need a checkpoint


def images(batch: int = 7) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def asked(method: str) -> MethodOptions:
    return MethodOptions(method, rise_masks=60)  # the published 8000 promise no more


KEPT: dict[str, FrozenClassifier] = {}  # nothing changes them, which is what is tested


@pytest.fixture
def classifier(request: pytest.FixtureRequest, toy_classifier: Make) -> FrozenClassifier:
    if request.param not in KEPT:
        KEPT[request.param] = toy_classifier(request.param)
    return KEPT[request.param]


SERVED = [
    (method, kind)
    for method in UNTRAINED
    for kind in ("cnn", "vit")
    if kind == "vit" or method not in TRANSFORMERS_ONLY
]


@pytest.mark.parametrize(("method", "classifier"), SERVED, indirect=["classifier"])
class TestEveryMethod:
    def test_shape_and_no_graph(self, method: str, classifier: FrozenClassifier) -> None:
        maps = build_explainer(classifier, asked(method))(images(), TARGETS)
        assert maps.ndim == 3 and len(maps) == 7
        assert maps.dtype == torch.float32 and not maps.requires_grad and maps.isfinite().all()

    @pytest.mark.parametrize("size", [1, 3])
    def test_batches_do_not_matter(self, method: str, classifier: FrozenClassifier, size: int) -> None:
        explainer = build_explainer(classifier, asked(method))
        whole = explainer(images(), TARGETS)
        parts = [explainer(a, b) for a, b in zip(images().split(size), TARGETS.split(size), strict=True)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))

    def test_the_same_twice(self, method: str, classifier: FrozenClassifier) -> None:
        first = build_explainer(classifier, asked(method))(images(), TARGETS)
        torch.rand(3)  # the global generator does not matter
        assert torch.equal(build_explainer(classifier, asked(method))(images(), TARGETS), first)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_any_grad_mode(self, method: str, classifier: FrozenClassifier, mode: type[torch.no_grad]) -> None:
        explainer = build_explainer(classifier, asked(method))
        expected = explainer(images(), TARGETS)
        with mode():
            given, targets = images() * 1, TARGETS * 1  # inference tensors in inference mode
            assert torch.equal(explainer(given, targets), expected)
            assert not torch.is_grad_enabled()
            assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
            assert torch.equal(given, images())

    def test_leaves_no_trace(self, method: str, classifier: FrozenClassifier) -> None:
        given = images().requires_grad_()
        before = trace(classifier)
        build_explainer(classifier, asked(method))(given, TARGETS)
        assert trace(classifier) == before
        assert given.grad is None and given.requires_grad and torch.is_grad_enabled()
        assert torch.equal(given, images())

    def test_bad_requests(self, method: str, classifier: FrozenClassifier) -> None:
        explainer = build_explainer(classifier, asked(method))
        with pytest.raises(InputError, match=r"expected images of shape \(B, 3, H, W\), got \(7, 1, 32, 32\)"):
            explainer(images()[:, :1], TARGETS)
        with pytest.raises(InputError, match=r"expected images in \[0, 1\], not normalised, got values in \[-"):
            explainer(images() - 1, TARGETS)
        with pytest.raises(InputError, match=r"expected targets of shape \(7,\) and type int64, got \(3,\)"):
            explainer(images(), TARGETS[:3])
        with pytest.raises(InputError, match=r"expected targets in 0\.\.4, got 5\.\.9"):
            explainer(images(), TARGETS + 5)


def trace(classifier: FrozenClassifier) -> list[object]:
    """Everything of a classifier that an explainer could leave changed."""
    modules: list[object] = [
        (name, part.training, len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
        for name, part in classifier.module.named_modules()
    ]
    values = [(name, v.requires_grad, v.grad is None, v.sum().item()) for name, v in classifier.named_parameters()]
    return [*modules, *values]


@pytest.mark.parametrize("method", sorted(TRANSFORMERS_ONLY))
def test_methods_for_transformers_refuse_others(method: str, toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="expected .*transformer"):
        build_explainer(toy_classifier("cnn"), MethodOptions(method))


def test_unknown_method(toy_classifier: Make) -> None:
    with pytest.raises(
        InputError, match="unknown method 'gradcan'; did you mean 'gradcam'\\? Known: ablationcam, all_ones"
    ):
        build_explainer(toy_classifier(), MethodOptions("gradcan"))


def test_a_wrong_answer_is_caught(toy_classifier: Make) -> None:
    class Wrong(CheckedExplainer):
        def explain(self, images: Tensor, targets: Tensor) -> Tensor:
            return images

    with pytest.raises(InputError, match=r"expected float maps of shape \(7, h, w\), got \(7, 3, 32, 32\)"):
        Wrong(toy_classifier())(images(), TARGETS)
