"""Methods of the library captum: equal to the library called by hand, and true to our contract."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cam_reference import assert_close, both_layouts, without_in_place
from explainer_trace import random_states, trace
from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.cams import GradCAM
from tame.explainers.external.captum import GRID, CaptumExplainer, grid_mask, methods
from tame.utils.checks import InputError

captum = pytest.importorskip("captum.attr")

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])
FEW: dict[str, dict[str, Any]] = {  # the defaults take hundreds of passes
    "KernelShap": {"n_samples": 60},
    "Lime": {"n_samples": 60},
    "ShapleyValueSampling": {"n_samples": 2},
    "IntegratedGradients": {"n_steps": 8},
}
METHODS = sorted(methods())
RULES = ("DeepLift", "GuidedBackprop", "Deconvolution", "GuidedGradCam", "LRP")  # for modules no transformer has
NOT_FOR_TOKENS = [name for name in METHODS if any(rule in name for rule in RULES)]
SERVED = [(name, kind) for name in METHODS for kind in ("cnn", "vit") if kind == "cnn" or name not in NOT_FOR_TOKENS]


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_methods_of_the_library() -> None:
    asked = "IntegratedGradients Saliency InputXGradient DeepLift GradientShap GuidedBackprop Deconvolution Occlusion"
    assert {*asked.split(), "FeatureAblation", "KernelShap", "Lime", "LayerGradCam"} <= set(METHODS)
    left_out = {"NoiseTunnel", "NeuronGradient", "LayerActivation", "FeaturePermutation", "LLMAttribution", "LimeBase"}
    assert not left_out & set(METHODS)


@pytest.mark.parametrize(("method", "kind"), SERVED)
class TestEveryMethod:
    def test_maps_leave_no_trace(self, toy_classifier: Make, method: str, kind: str) -> None:
        classifier = toy_classifier(kind)
        before, states = trace(classifier), random_states()
        explainer = CaptumExplainer(classifier, method, **FEW.get(method, {}))
        maps = explainer(images(2), TARGETS[:2])
        assert maps.shape == (2, *((4, 4) if explainer.layers and method != "GuidedGradCam" else (32, 32)))
        assert maps.dtype == torch.float32 and not maps.requires_grad and maps.isfinite().all()
        assert maps.any() or method == "Lime"  # whose lasso drops such small effects
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                given, targets = images(2) * 1, TARGETS[:2] * 1  # inference tensors in inference mode
                assert torch.equal(explainer(given, targets), maps)
                assert not torch.is_grad_enabled()
                assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
                assert torch.equal(given, images(2))
        assert trace(classifier) == before and random_states() == states

    def test_a_batch_is_its_images_one_by_one(self, toy_classifier: Make, method: str, kind: str) -> None:
        explainer = CaptumExplainer(toy_classifier(kind), method, **FEW.get(method, {}))
        whole = explainer(images(3), TARGETS[:3])
        torch.rand(3), np.random.rand(3), random.random()  # the global generators do not matter
        assert torch.equal(explainer(images()[[2]], TARGETS[[2]])[0], whole[2])

    def test_leaves_no_trace_after_an_exception(self, toy_classifier: Make, method: str, kind: str) -> None:
        classifier, passes = toy_classifier(kind), 0

        def fail(_module: nn.Module, _args: object) -> None:
            nonlocal passes
            passes += 1
            if passes == 2:
                raise RuntimeError("out of luck")

        explainer = CaptumExplainer(classifier, method, **FEW.get(method, {}))
        classifier.module.get_submodule("head" if kind == "cnn" else "heads").register_forward_pre_hook(fail)
        before, states = trace(classifier), random_states()
        with pytest.raises(InputError, match=f"captum:{method} cannot explain toy_{kind}: out of luck"):
            explainer(images(), TARGETS)
        assert trace(classifier) == before and random_states() == states


def by_hand(classifier: FrozenClassifier, name: str, /, **arguments: Any) -> Tensor:
    """Return what the library gives for the whole batch."""
    module = without_in_place(classifier).module
    inputs = classifier.normalise(images()).requires_grad_()
    return getattr(captum, name)(module).attribute(inputs, target=TARGETS, **arguments).detach()


@pytest.mark.parametrize(
    ("method", "ours", "theirs"),
    [
        ("IntegratedGradients", {"n_steps": 7}, {"n_steps": 7}),
        ("IntegratedGradients", {"baselines": 0.5}, {"baselines": 0.5}),
        ("IntegratedGradients", {"quadrature": "riemann_left"}, {"method": "riemann_left"}),
        ("Saliency", {}, {}),
        ("Saliency", {"abs": False}, {"abs": False}),
        ("InputXGradient", {}, {}),
        ("DeepLift", {}, {}),
        ("GuidedBackprop", {}, {}),
        ("Deconvolution", {}, {}),
        ("Occlusion", {}, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 2, 2)}),
        ("Occlusion", {"sliding_window_shapes": 8}, {"sliding_window_shapes": (3, 8, 8), "strides": (3, 4, 4)}),
        ("Occlusion", {"sliding_window_shapes": [1, 8, 6], "strides": [1, 5, 5]}, None),
        ("FeatureAblation", {}, {"feature_mask": grid_mask(32, 32)}),
        ("LRP", {}, {}),
    ],
)
def test_equals_the_library_by_hand(
    toy_classifier: Make, method: str, ours: dict[str, Any], theirs: dict[str, Any] | None
) -> None:
    if theirs is None:
        theirs = {"sliding_window_shapes": (1, 8, 6), "strides": (1, 5, 5)}
    found = build_explainer(toy_classifier(), f"captum:{method}", **ours)(images(), TARGETS)
    assert_close(found, by_hand(toy_classifier(), method, **theirs).sum(1))


@pytest.mark.parametrize("method", ["IntegratedGradients", "Saliency", "InputXGradient", "FeatureAblation"])
def test_equals_the_library_by_hand_on_tokens(toy_classifier: Make, method: str) -> None:
    mask = {"feature_mask": grid_mask(32, 32)} if method == "FeatureAblation" else {}
    found = CaptumExplainer(toy_classifier("vit"), method)(images(), TARGETS)
    assert_close(found, by_hand(toy_classifier("vit"), method, **mask).sum(1), 1e-4)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_layer_grad_cam_is_our_grad_cam(toy_classifier: Make, kind: str) -> None:
    """On tokens too, where the library by itself takes tokens for channels."""
    found = CaptumExplainer(toy_classifier(kind), "LayerGradCam")(images(), TARGETS)
    assert found.min() < 0  # signed
    assert_close(found.relu(), GradCAM(toy_classifier(kind))(images(), TARGETS))
    positive = CaptumExplainer(toy_classifier(kind), "LayerGradCam", relu_attributions=True)(images(), TARGETS)
    assert torch.equal(positive, found.relu())


@pytest.mark.parametrize("method", ["LayerGradCam", "LayerIntegratedGradients", "LayerConductance", "GuidedGradCam"])
def test_channels_last(method: str) -> None:
    maps = [CaptumExplainer(classifier, method)(images(), TARGETS) for classifier in both_layouts()]
    assert_close(*maps)


def test_the_grid_of_features() -> None:
    mask = grid_mask(30, 41)
    assert mask.shape == (1, 1, 30, 41) and mask.unique().tolist() == list(range(GRID**2))
    assert mask[0, 0, 0, -1] == GRID - 1 and mask[0, 0, -1, 0] == GRID * (GRID - 1)


class TestArguments:
    def test_names_are_matched_loosely(self, toy_classifier: Make) -> None:
        explainer = build_explainer(toy_classifier(), "captum:integrated-gradients", n_steps=3)
        assert (explainer.method, dict(explainer.arguments)) == ("captum:IntegratedGradients", {"n_steps": 3})

    def test_the_layer_is_the_users_or_the_specs(self, toy_classifier: Make) -> None:
        maps = build_explainer(toy_classifier(), "captum:LayerGradCam", layer="stage1")(images(), TARGETS)
        assert maps.shape == (4, 16, 16)

    @pytest.mark.parametrize(
        ("method", "arguments", "message"),
        [
            (
                "Salience",
                {},
                "captum has no method 'Salience'; did you mean Saliency? Its methods: Deconvolution",
            ),
            ("Saliency", {"absolute": True}, "captum:Saliency takes no argument 'absolute'"),
            ("IntegratedGradients", {"n_step": 3}, "takes no argument 'n_step'; did you mean 'n_steps'? It takes mult"),
            ("Saliency", {"layer": "stage3"}, "captum:Saliency attributes to the image: expected no layer, got 'stage"),
            ("LayerGradCam", {"layer": "stag3"}, "'stag3' is not a layer of ToyCNN"),
        ],
    )
    def test_bad_ones(self, toy_classifier: Make, method: str, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError) as caught:
            build_explainer(toy_classifier(), f"captum:{method}", **arguments)
        assert message in str(caught.value)

    def test_a_bad_value_that_the_library_finds(self, toy_classifier: Make) -> None:
        explainer = build_explainer(toy_classifier(), "captum:IntegratedGradients", quadrature="simpson")
        with pytest.raises(InputError, match="captum:IntegratedGradients cannot explain toy_cnn: .*simpson"):
            explainer(images(), TARGETS)

    @pytest.mark.parametrize("method", [name for name in NOT_FOR_TOKENS if name != "LRP"])
    def test_methods_that_would_be_another_one(self, toy_classifier: Make, method: str) -> None:
        with pytest.raises(InputError, match=f"captum:{method} changes the gradients of ReLU.*got toy_vit without any"):
            CaptumExplainer(toy_classifier("vit"), method)

    def test_modules_without_a_rule(self, toy_classifier: Make) -> None:
        with pytest.raises(InputError, match="captum:LRP cannot explain toy_vit: Module of type .*LayerNorm"):
            CaptumExplainer(toy_classifier("vit"), "LRP")(images(), TARGETS)

    def test_without_the_library(self, toy_classifier: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "captum", None)
        monkeypatch.delitem(sys.modules, "captum.attr")
        with pytest.raises(InputError, match=r'captum is not installed: pip install "t-tame\[captum\]"'):
            build_explainer(toy_classifier(), "captum:Saliency")


def test_other_sizes_and_no_image(toy_classifier: Make) -> None:
    for method in ("Saliency", "Occlusion", "FeatureAblation"):
        explainer = CaptumExplainer(toy_classifier(), method)
        assert explainer(torch.rand(2, 3, 48, 40), TARGETS[:2]).shape == (2, 48, 40)
        assert len(explainer(images(0), TARGETS[:0])) == 0
