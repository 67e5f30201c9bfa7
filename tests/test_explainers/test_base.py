"""The registry, and what every registered method promises."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from explainer_trace import trace
from tame.classifier import FrozenClassifier
from tame.explainers import EXPLAINERS, CheckedExplainer, MethodName, build_explainer
from tame.explainers.cams import GradCAM
from tame.utils.checks import InputError
from toys import TOY_SPECS

Make = Callable[..., FrozenClassifier]
UNTRAINED = [name for name in EXPLAINERS if not EXPLAINERS.get(name).learned]  # those need a checkpoint
TRANSFORMERS_ONLY = [name for name in EXPLAINERS if EXPLAINERS.get(name).transformers_only]


def images(batch: int = 7) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def build(classifier: FrozenClassifier, method: str) -> CheckedExplainer:
    arguments = {"masks": 60} if method == "rise" else {}  # the published 8000 promise no more
    return build_explainer(classifier, method, **arguments)


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
        maps = build(classifier, method)(images(), TARGETS)
        assert maps.ndim == 3 and len(maps) == 7
        assert maps.dtype == torch.float32 and not maps.requires_grad and maps.isfinite().all()

    @pytest.mark.parametrize("size", [1, 3])
    def test_batches_do_not_matter(self, method: str, classifier: FrozenClassifier, size: int) -> None:
        explainer = build(classifier, method)
        whole = explainer(images(), TARGETS)
        parts = [explainer(a, b) for a, b in zip(images().split(size), TARGETS.split(size), strict=True)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))

    def test_the_same_twice(self, method: str, classifier: FrozenClassifier) -> None:
        first = build(classifier, method)(images(), TARGETS)
        torch.rand(3)  # the global generator does not matter
        assert torch.equal(build(classifier, method)(images(), TARGETS), first)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_any_grad_mode(self, method: str, classifier: FrozenClassifier, mode: type[torch.no_grad]) -> None:
        explainer = build(classifier, method)
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
        build(classifier, method)(given, TARGETS)
        assert trace(classifier) == before
        assert given.grad is None and given.requires_grad and torch.is_grad_enabled()
        assert torch.equal(given, images())

    def test_bad_requests(self, method: str, classifier: FrozenClassifier) -> None:
        explainer = build(classifier, method)
        with pytest.raises(InputError, match=r"expected images of shape \(B, 3, H, W\), got \(7, 1, 32, 32\)"):
            explainer(images()[:, :1], TARGETS)
        with pytest.raises(InputError, match=r"expected images in \[0, 1\], not normalised, got values in \[-"):
            explainer(images() - 1, TARGETS)
        with pytest.raises(InputError, match=r"expected targets of shape \(7,\) and type int64, got \(3,\)"):
            explainer(images(), TARGETS[:3])
        with pytest.raises(InputError, match=r"expected targets in 0\.\.4, got 5\.\.9"):
            explainer(images(), TARGETS + 5)


class TestTargetsAndPrecision:
    @pytest.mark.parametrize(
        "targets",
        [
            [0, 1, 2, 3, 4, 0, 1],
            (0, 1, 2, 3, 4, 0, 1),
            TARGETS.numpy(),
            TARGETS.int(),
            TARGETS.to(torch.uint8),
            [TOY_SPECS["cnn"].class_names[index] for index in TARGETS.tolist()],
        ],
    )
    def test_indices_and_names_in_any_sequence(self, toy_classifier: Make, targets: Any) -> None:
        explainer = build_explainer(toy_classifier(), "gradcam")
        assert torch.equal(explainer(images(), targets), explainer(images(), TARGETS))

    def test_the_predicted_classes_by_default_and_one_class_for_all(self, toy_classifier: Make) -> None:
        explainer = build_explainer(classifier := toy_classifier(), "gradcam")
        predicted = classifier.logits(images()).argmax(1)
        assert torch.equal(explainer(images()), explainer(images(), predicted))
        assert torch.equal(explainer(images(), 3), explainer(images(), torch.full((7,), 3)))
        assert not torch.equal(explainer(images(), 3), explainer(images(), 2))

    @pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "rise", "captum:Saliency"])
    def test_double_images(self, toy_classifier: Make, method: str) -> None:
        if method.startswith("captum:"):
            pytest.importorskip("captum")
        explainer = build(toy_classifier(), method)
        maps = explainer(images().double(), TARGETS)
        assert maps.dtype == torch.float32 and torch.equal(maps, explainer(images(), TARGETS))

    def test_a_classifier_of_double_and_half_images(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        logits, features = classifier(images())
        assert torch.equal(classifier.logits(images().double()), logits)
        assert torch.equal(classifier(images().double()).features[0], features[0])
        masked = classifier.masked_logits(images(), torch.ones(7, 4, 4))
        assert torch.equal(classifier.masked_logits(images().double(), torch.ones(7, 4, 4)), masked)
        assert classifier.logits(images().half()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([0, 1], r"expected targets of shape \(7,\) and type int64, got \(2,\)"),
            ([9] * 7, r"expected a class index in 0\.\.4, got 9"),
            (["cow"] * 7, "unknown class 'cow' for toy_cnn"),
            (torch.rand(7), r"expected targets of shape \(7,\) and type int64, got \(7,\) torch.float32"),
            (torch.ones(7).bool(), r"expected targets of shape \(7,\) and type int64, got \(7,\) torch.bool"),
            (torch.tensor(1), r"expected targets of shape \(7,\) and type int64, got \(\)"),
        ],
    )
    def test_what_is_no_target(self, toy_classifier: Make, targets: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            build_explainer(toy_classifier(), "gradcam")(images(), targets)


@pytest.mark.parametrize("method", sorted(TRANSFORMERS_ONLY))
def test_methods_for_transformers_refuse_others(method: str, toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="expected .*transformer"):
        build_explainer(toy_classifier("cnn"), method)


def test_unknown_method(toy_classifier: Make) -> None:
    with pytest.raises(
        InputError, match="unknown method 'gradcan'; did you mean 'gradcam'\\? Known: ablationcam, all_ones"
    ):
        build_explainer(toy_classifier(), "gradcan")


class TestRegistry:
    @pytest.mark.parametrize("name", EXPLAINERS)
    def test_every_entry_says_what_it_is(self, name: str) -> None:
        method = EXPLAINERS.get(name)
        assert method.title and method.title != name
        assert method.summary and not method.summary.endswith(".") and "\n" not in method.summary
        assert method.cost == "none" or "forward" in method.cost
        assert method.paper or method.summary.startswith("control: ")

    def test_titles_differ(self) -> None:
        titles = [EXPLAINERS.get(name).title for name in EXPLAINERS]
        assert len(set(titles)) == len(titles)

    def test_arguments_by_name(self) -> None:
        taken = {name: list(EXPLAINERS.get(name).arguments) for name in EXPLAINERS}
        assert taken["gradcam"] == ["layer"] and taken["ttame"] == ["checkpoint"] and taken["centre"] == []
        assert taken["rise"] == ["masks", "batch_size", "seed", "draw", "weighting"]
        assert taken["iia"] == taken["iia_released"] == ["layer", "steps", "batch_size"]


class TestBuild:
    @pytest.mark.parametrize("name", EXPLAINERS)
    def test_unknown_arguments_are_refused_with_the_known_ones(self, name: str, toy_classifier: Make) -> None:
        takes = ", ".join(EXPLAINERS.get(name).arguments) or "no arguments"
        with pytest.raises(InputError, match=f"^{re.escape(name)} takes no argument 'zzz'; it takes {takes}$"):
            build_explainer(toy_classifier(), name, zzz=3)

    def test_the_nearest_argument_is_named(self, toy_classifier: Make) -> None:
        with pytest.raises(InputError, match="rise takes no argument 'mask'; did you mean 'masks'\\? It takes masks, "):
            build_explainer(toy_classifier(), "rise", mask=3)
        with pytest.raises(InputError, match="rise takes no argument 'checkpoint'"):
            build_explainer(toy_classifier(), "rise@runs/mine")

    @pytest.mark.parametrize(("method", "kind"), SERVED)
    def test_it_says_what_it_was_built_by(self, method: str, kind: str, toy_classifier: Make) -> None:
        explainer = build(toy_classifier(kind), method)
        assert explainer.method == method
        assert dict(explainer.arguments) == ({"masks": 60} if method == "rise" else {})

    def test_built_by_hand_it_says_nothing(self, toy_classifier: Make) -> None:
        explainer = GradCAM(toy_classifier(), "stage2")
        assert explainer.method is None and dict(explainer.arguments) == {}

    def test_a_network_by_itself(self) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        explainer = build_explainer(net, "gradcam", layer="1")
        assert explainer(torch.rand(2, 3, 224, 224), torch.tensor([0, 1])).shape == (2, 222, 222)
        shared = list(explainer.classifier.module.parameters())
        assert [one.data_ptr() for one in shared] == [one.data_ptr() for one in net.parameters()]

    def test_what_is_no_classifier_or_method(self, toy_classifier: Make) -> None:
        with pytest.raises(InputError, match="expected a classifier .*, got int"):
            build_explainer(3, "gradcam")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"expected a method \(a name, or a function .*\), got int"):
            build_explainer(toy_classifier(), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name", "checkpoint", "external", "learned", "title"),
    [
        ("gradcam++", "gradcam++", None, None, False, "Grad-CAM++"),
        ("ttame", "ttame", None, None, True, "T-TAME"),
        ("lcam_fm@runs/a:b", "lcam_fm", "runs/a:b", None, True, "L-CAM-Fm"),
        ("grad-cam:EigenCAM", "grad-cam:EigenCAM", None, "grad-cam", False, "EigenCAM"),
        ("captum:Saliency", "captum:Saliency", None, "captum", False, "Saliency"),
        ("mine.methods:plain", "mine.methods:plain", None, None, False, "plain"),
    ],
)
def test_method_names(
    text: str, name: str, checkpoint: str | None, external: str | None, learned: bool, title: str
) -> None:
    method = MethodName.of(text)
    assert method == (name, checkpoint)
    assert (method.external, method.learned, method.title) == (external, learned, title)
    assert method.registered is (None if ":" in name else EXPLAINERS.get(name))


def test_a_wrong_answer_is_caught(toy_classifier: Make) -> None:
    class Wrong(CheckedExplainer):
        def explain(self, images: Tensor, targets: Tensor) -> Tensor:
            return images

    with pytest.raises(InputError, match=r"expected float maps of shape \(7, h, w\), got \(7, 3, 32, 32\)"):
        Wrong(toy_classifier())(images(), TARGETS)
