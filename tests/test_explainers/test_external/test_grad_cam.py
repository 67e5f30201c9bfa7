"""Methods of the library grad-cam: each equals the library called by hand, and keeps our contract."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cam_reference import assert_close, both_layouts, finish, library_maps, without_in_place
from explainer_trace import random_states, trace
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.explainers.cams import GradCAM
from tame.explainers.external.grad_cam import LibraryCAM, methods
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])
LAST = {"cnn": "stage3", "vit": "encoder.layers.encoder_layer_2.ln_1"}
WHOLE_IMAGE = ("FullGrad", "RefineCAM", "SESS")  # maps of the image's size
META = (*WHOLE_IMAGE, "FinerCAM")  # not called like the others
METHODS = sorted(methods())


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_methods_of_the_library() -> None:
    asked = "GradCAM HiResCAM XGradCAM FullGrad KPCA_CAM ShapleyCAM FinerCAM ScoreCAM AblationCAM EigenGradCAM LayerCAM"
    assert {*asked.split(), "RandomCAM", "EigenCAM", "SegEigenCAM", "RefineCAM", "SESS"} <= set(METHODS)
    assert not {"BaseCAM", "ActivationsAndGradients", "GuidedBackpropReLUModel"} & set(METHODS)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_maps(self, toy_classifier: Make, method: str, kind: str) -> None:
        maps = LibraryCAM(toy_classifier(kind), method)(images(), TARGETS)
        assert maps.shape == (4, *((32, 32) if method in WHOLE_IMAGE else (4, 4)))
        assert maps.dtype == torch.float32 and not maps.requires_grad
        assert maps.isfinite().all() and maps.min() >= 0 and maps.std((1, 2)).max() > 0

    def test_a_batch_is_its_images_one_by_one(self, toy_classifier: Make, method: str, kind: str) -> None:
        explainer = LibraryCAM(toy_classifier(kind), method)
        whole = explainer(images(), TARGETS)
        torch.rand(3), np.random.rand(3), random.random()  # the global generators do not matter
        for index in (2, 0):
            assert torch.equal(explainer(images()[[index]], TARGETS[[index]])[0], whole[index])

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_leaves_no_trace(
        self, toy_classifier: Make, method: str, kind: str, mode: type[torch.no_grad], capfd: pytest.CaptureFixture[str]
    ) -> None:
        classifier = toy_classifier(kind)
        before, states = trace(classifier), random_states()
        explainer = LibraryCAM(classifier, method)
        expected = explainer(images(2), TARGETS[:2])
        with mode():
            given, targets = images(2) * 1, TARGETS[:2] * 1  # inference tensors in inference mode
            assert torch.equal(explainer(given, targets), expected)
            assert not torch.is_grad_enabled()
            assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
            assert torch.equal(given, images(2))
        assert trace(classifier) == before and random_states() == states
        assert capfd.readouterr() == ("", "")  # neither warnings nor progress bars

    @pytest.mark.parametrize("after", [1, 3])
    def test_leaves_no_trace_after_an_exception(self, toy_classifier: Make, method: str, kind: str, after: int) -> None:
        classifier, passes = toy_classifier(kind), 0

        def fail(_module: nn.Module, _args: object) -> None:
            nonlocal passes
            passes += 1
            if passes >= after:
                raise RuntimeError("out of luck")

        explainer = LibraryCAM(classifier, method)
        module = classifier.module.get_submodule("head" if kind == "cnn" else "heads")
        handle = module.register_forward_pre_hook(fail)
        before, states = trace(classifier), random_states()
        with pytest.raises(InputError, match=f"grad-cam:{method} cannot explain toy_{kind}: out of luck"):
            explainer(images(), TARGETS)
        assert passes == after
        assert trace(classifier) == before and random_states() == states
        handle.remove()


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*META, "RandomCAM", "ShapleyCAM")])
def test_equals_the_library_by_hand(toy_classifier: Make, method: str, kind: str) -> None:
    """The library scales the maps and enlarges them; ours are the ones before."""
    arguments = {"batch_size": 1} if method == "AblationCAM" else {}
    ours = LibraryCAM(toy_classifier(kind), method, LAST[kind], **arguments)(images(), TARGETS)
    classifier = without_in_place(toy_classifier(kind))
    for index in range(4):  # one by one: rounding decides the sign of a singular vector
        image, target = images()[[index]], TARGETS[[index]]
        theirs = library_maps(getattr(pytorch_grad_cam, method), classifier, LAST[kind], image, target)
        torch.testing.assert_close(finish(ours[[index]]), theirs, rtol=0, atol=1e-4)


def by_hand(classifier: FrozenClassifier, kind: Any, layers: list[str], *args: Any, **options: Any) -> np.ndarray:
    """Return what the library returns for one image of class 4, without any of our code."""
    classifier = without_in_place(classifier)
    classifier.module.requires_grad_()  # the library fails on a frozen network
    tokens = classifier.spec.tokens
    found = [classifier.module.get_submodule(layer) for layer in layers]
    cam = kind(classifier.module, found, tokens and tokens.to_map if layers else None)
    return cam(classifier.normalise(images(1)).clone(), *args, **options)[0]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
class TestThoseCalledInAnotherWay:
    def test_full_grad(self, toy_classifier: Make, kind: str) -> None:
        ours = LibraryCAM(toy_classifier(kind), "FullGrad")(images(1), TARGETS[:1])
        theirs = by_hand(toy_classifier(kind), pytorch_grad_cam.FullGrad, [], [ClassifierOutputTarget(4)])
        np.testing.assert_allclose(scale_cam_image(ours.numpy())[0], theirs, atol=1e-5)

    def test_finer_cam(self, toy_classifier: Make, kind: str) -> None:
        """The target is compared with the classes whose logits are nearest, which its plain target would not do."""
        ours = LibraryCAM(toy_classifier(kind), "FinerCAM", alpha=0.8)(images(1), TARGETS[:1])
        arguments: dict[str, Any] = {"target_idx": 4, "alpha": 0.8}
        theirs = by_hand(toy_classifier(kind), pytorch_grad_cam.FinerCAM, [LAST[kind]], None, **arguments)
        np.testing.assert_allclose(finish(ours)[0].numpy(), theirs, atol=1e-4)
        plain = LibraryCAM(toy_classifier(kind), "GradCAM")(images(1), TARGETS[:1])
        assert not torch.allclose(ours, plain, rtol=0.05)

    def test_refine_cam(self, toy_classifier: Make, kind: str) -> None:
        """All feature layers by default; these maps are scaled by the library."""
        classifier = toy_classifier(kind)
        ours = LibraryCAM(classifier, "RefineCAM")(images(1), TARGETS[:1])[0]
        layers = list(classifier.layers)
        theirs = by_hand(toy_classifier(kind), pytorch_grad_cam.RefineCAM, layers, [ClassifierOutputTarget(4)])
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)

    def test_sess(self, toy_classifier: Make, kind: str) -> None:
        ours = LibraryCAM(toy_classifier(kind), "SESS")(images(1), TARGETS[:1])
        theirs = by_hand(toy_classifier(kind), pytorch_grad_cam.SESS, [LAST[kind]], [ClassifierOutputTarget(4)])
        np.testing.assert_allclose(scale_cam_image(ours.numpy())[0], theirs, atol=1e-4)


def test_shapley_cam(toy_classifier: Make) -> None:
    """The library cannot serve tokens, ours can: a literal twin. At a layer that acts linearly it is Grad-CAM."""
    layer = "stage2"
    ours = LibraryCAM(toy_classifier(), "ShapleyCAM", layer)(images(1), TARGETS[:1])
    theirs = by_hand(toy_classifier(), pytorch_grad_cam.ShapleyCAM, [layer], [ClassifierOutputTarget(4)])
    np.testing.assert_allclose(finish(ours)[0].numpy(), theirs, atol=1e-4)
    classifier = toy_classifier("vit")
    ours = LibraryCAM(classifier, "ShapleyCAM")(images(1), TARGETS[:1])[0]
    assert_close(ours, literal_shapley(classifier, images(1), 4), 1e-4)


def literal_shapley(classifier: FrozenClassifier, image: Tensor, target: int) -> Tensor:
    """Patches of the last norm: ``w_c = mean(G - H A / 2)``, the Hessian row by row."""
    net: Any = classifier.module
    block = net.encoder.layers[2]
    tokens = torch.cat([net.class_token, net._process_input(classifier.normalise(image))], 1)
    tokens = net.encoder.layers[:2](tokens + net.encoder.pos_embedding)
    normed = block.ln_1(tokens)

    def logit(patches: Tensor) -> Tensor:
        inputs = torch.cat([normed[:, :1], patches], 1)
        weights, biases = block.self_attention.in_proj_weight.chunk(3), block.self_attention.in_proj_bias.chunk(3)
        queries, keys, values = (
            (inputs @ weight.T + bias).unflatten(-1, (2, 8)).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )
        mixed = (queries @ keys.mT / 8**0.5).softmax(-1) @ values
        after = tokens + block.self_attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return net.heads(net.encoder.ln(after + block.mlp(block.ln_2(after)))[:, 0])[0, target]

    patches = normed[:, 1:].detach()
    gradient = torch.autograd.functional.jacobian(logit, patches)
    _, product = torch.autograd.functional.hvp(logit, patches, patches)
    weights = (gradient - product / 2).mean(1)  # (1, C)
    return (weights * patches[0]).sum(1).view(4, 4).clamp(min=0)


def test_random_cam_is_seeded_by_the_image(toy_classifier: Make) -> None:
    explainer = LibraryCAM(toy_classifier(), "RandomCAM")
    maps = explainer(images(), TARGETS)
    assert torch.equal(explainer(images(), TARGETS), maps)
    assert not torch.allclose(maps[0] / maps[0].max(), maps[1] / maps[1].max(), atol=0.1)


@pytest.mark.parametrize("method", ["GradCAM", "EigenCAM", "AblationCAM", "ScoreCAM", "ShapleyCAM", "SESS"])
def test_channels_last(method: str) -> None:
    maps = [LibraryCAM(classifier, method)(images(), TARGETS) for classifier in both_layouts()]
    assert_close(*maps)


def test_a_module_called_twice_means_its_last_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv, self.head = nn.ReLU(inplace=True), nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.act(self.conv(self.act(inputs))).mean((2, 3)))

    torch.manual_seed(0)
    spec = BackboneSpec("twice", nn.Identity, Preprocessing(32, 32), class_names=("a", "b", "c"))
    classifier = FrozenClassifier(spec, Twice(), ["act"])
    targets = torch.tensor([0, 1, 2, 0])
    assert_close(LibraryCAM(classifier, "GradCAM")(images(), targets), GradCAM(classifier)(images(), targets))


def test_other_sizes_and_no_image(toy_classifier: Make) -> None:
    explainer = LibraryCAM(toy_classifier(), "LayerCAM")
    assert explainer(torch.rand(2, 3, 48, 40), TARGETS[:2]).shape == (2, 6, 5)
    assert len(explainer(images(0), TARGETS[:0])) == 0


def test_half_precision_changes_nothing(toy_classifier: Make) -> None:
    explainer = LibraryCAM(toy_classifier(), "GradCAM")
    exact = explainer(images(), TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explainer(images(), TARGETS), exact)
