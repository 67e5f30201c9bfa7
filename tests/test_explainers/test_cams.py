"""CAMs of one forward pass: hand values, literal twins, the grad-cam library, the reference numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from cam_reference import CASES, assert_close, finish, library_maps, load_case, without_in_place
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.classifier.gradients import as_map
from tame.explainers import build_explainer
from tame.explainers.cams import (
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientCAM,
    LayerCAM,
    LayerExplainer,
    XGradCAM,
    activations_and_gradients,
    layer_output,
)
from tame.utils.checks import InputError


def images(batch: int = 4, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


Make = Callable[..., FrozenClassifier]
NORM = "encoder.layers.encoder_layer_{}.ln_1"
TARGETS = torch.tensor([4, 1, 2, 0])
GRADIENT_CAMS = (GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM)


def test_by_hand() -> None:
    """The logit is the pixel sum, so every channel's weight is 1 and the map is the sum over channels."""
    given = images(side=4)
    maps = GradCAM(brightness_classifier(side=4), "0")(given, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(maps[:3], given[:3].sum(1))
    assert maps[3].eq(0).all()  # class 1 does not depend on the image


def test_the_others_by_hand() -> None:
    """All gradients are 1, so only the activations differ from channel to channel."""
    classifier, given, targets = brightness_classifier(side=4), images(side=4), torch.tensor([0, 0, 0, 1])
    found = {cam: cam(classifier, "0")(given, targets) for cam in GRADIENT_CAMS}
    total = given.sum((2, 3), keepdim=True)
    for cam, expected in (
        (GradCAMPlusPlus, (given * 16 / (2 + total + 1e-6)).sum(1)),
        (LayerCAM, given.sum(1)),
        (XGradCAM, given.sum(1)),
    ):
        torch.testing.assert_close(found[cam][:3], expected[:3])
        assert found[cam][3].eq(0).all()


def literal_map(cam: type[GradientCAM], activations: Tensor, gradients: Tensor) -> Tensor:
    """The map of one image from its formula, channel by channel and position by position."""
    channels, height, width = activations.shape
    found = torch.zeros(height, width)
    for a, g in zip(activations, gradients, strict=True):
        places = [(row, column) for row in range(height) for column in range(width)]
        if cam is GradCAM:
            weight = sum(float(g[place]) for place in places) / len(places)
        elif cam is GradCAMPlusPlus:
            weight, total = 0.0, sum(float(a[place]) for place in places)
            for place in places:
                if (slope := float(g[place])) > 0:
                    weight += slope * slope**2 / (2 * slope**2 + slope**3 * total + 1e-6)
        elif cam is XGradCAM:
            weight = sum(float(g[place] * a[place]) for place in places)
            weight /= sum(float(a[place]) for place in places) + 1e-7
        for place in places:
            found[place] += a[place] * (max(float(g[place]), 0) if cam is LayerCAM else weight)
    return found.clamp(min=0)


@pytest.mark.parametrize("cam", GRADIENT_CAMS)
@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage2"), ("cnn", "stage2.1"), ("vit", NORM.format(1))])
def test_literal_twin(toy_classifier: Make, cam: type[GradientCAM], kind: str, layer: str) -> None:
    classifier = toy_classifier(kind)
    maps = cam(classifier, layer)(images(), TARGETS)
    found = activations_and_gradients(classifier, layer, images(), TARGETS)
    activations, gradients = (as_map(classifier, values) for values in found)
    for index in range(4):
        assert_close(maps[index], literal_map(cam, activations[index], gradients[index]), 1e-4)


@pytest.mark.parametrize("cam", GRADIENT_CAMS)
@pytest.mark.parametrize(
    ("kind", "layer"),
    [  # two have negative values
        *(("cnn", layer) for layer in ("stage1.1", "stage2", "stage3.0", "stage3")),
        *(("vit", NORM.format(block)) for block in (0, 2)),
    ],
)
def test_against_the_library(toy_classifier: Make, cam: type[GradientCAM], kind: str, layer: str) -> None:
    import pytorch_grad_cam

    classifier = without_in_place(toy_classifier(kind))
    ours = cam(classifier, layer)(images(), TARGETS)
    theirs = library_maps(getattr(pytorch_grad_cam, cam.__name__), classifier, layer, images(), TARGETS)
    torch.testing.assert_close(finish(ours), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage2"), ("cnn", "stage3.0"), ("vit", NORM.format(2))])
def test_eigencam_against_the_library(toy_classifier: Make, kind: str, layer: str) -> None:
    """Up to the sign, which the library leaves to LAPACK."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    classifier = toy_classifier(kind)
    activations = layer_output(classifier, layer, images())
    ours, theirs = EigenCAM.project(activations), torch.from_numpy(get_2d_projection(activations.numpy()))
    assert_close(ours.abs(), theirs.abs())
    sign = (ours * theirs).sum((1, 2), keepdim=True).sign()
    assert_close(ours, sign * theirs)
    assert torch.equal(EigenCAM(classifier, layer)(images(), TARGETS), ours.relu())


def test_eigencam_has_the_sign_of_the_mean_activation() -> None:
    activations = torch.rand(6, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    projection = EigenCAM.project(activations)
    mean = activations.mean(1)
    assert (projection * (mean - mean.mean((1, 2), keepdim=True))).sum((1, 2)).gt(0).all()
    torch.testing.assert_close(projection.sum((1, 2)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(EigenCAM.project(-activations), -projection)
    assert EigenCAM.project(torch.ones(1, 5, 3, 4)).eq(0).all()


def test_eigencam_knows_no_target(toy_classifier: Make) -> None:
    explainer = EigenCAM(toy_classifier(), "stage3")
    assert torch.equal(explainer(images(), TARGETS), explainer(images(), TARGETS.flip(0)))


@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("gate", [False, True])
def test_tokens_literal_twin(toy_classifier: Make, block: int, gate: bool) -> None:
    """Prefix dropped, rows of patches in order; a gate for trained maps is no part of the classifier."""
    classifier, layer = toy_classifier("vit"), NORM.format(block)
    classifier.spec = replace(classifier.spec, tokens=TokenLayout(prefix=1, grid=(4, 4), gate=gate))
    maps = GradCAM(classifier, layer)(images(), TARGETS)
    activations, gradients = activations_and_gradients(classifier, layer, images(), TARGETS)
    assert activations.shape == (4, 17, 16)
    for index in range(4):
        weights = gradients[index, 1:].mean(0)
        expected = (activations[index, 1:] @ weights).clamp(min=0).view(4, 4)
        torch.testing.assert_close(maps[index], expected)


@pytest.mark.parametrize("layer", ["stage1.1", "stage2"])
def test_in_place_activations_do_no_harm(toy_classifier: Make, layer: str) -> None:
    """`stage1.1` is followed by an in-place ReLU; the result equals that of a network without any."""
    found = activations_and_gradients(toy_classifier(), layer, images(), TARGETS)
    plain = toy_classifier()
    for part in plain.module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    expected = activations_and_gradients(plain, layer, images(), TARGETS)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_gradients_are_each_images_own(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    _, together = activations_and_gradients(classifier, "stage2", images(), TARGETS)
    for index in range(4):
        _, alone = activations_and_gradients(classifier, "stage2", images()[[index]], TARGETS[[index]])
        torch.testing.assert_close(together[[index]], alone)


def test_a_module_called_twice_means_its_last_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)
            self.conv = nn.Conv2d(3, 3, 1)
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.act(self.conv(self.act(x)))).flatten(1)

    torch.manual_seed(0)
    net = Twice()
    spec = BackboneSpec("twice", nn.Identity, Preprocessing(4, 4), class_names=("a", "b", "c"))
    classifier = FrozenClassifier(spec, net, ["act"])
    activations, _ = activations_and_gradients(classifier, "act", images(2, 4), torch.tensor([0, 1]))
    torch.testing.assert_close(activations, classifier(images(2, 4)).features[0])


def test_hook_is_gone_after_an_exception(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    with pytest.raises(RuntimeError):
        activations_and_gradients(classifier, "stage3", torch.rand(1, 7, 32, 32), TARGETS[:1])
    assert all(not part._forward_hooks for part in classifier.module.modules())


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "xgradcam", "eigencam"])
def test_which_layer(toy_classifier: Make, method: str) -> None:
    vit, cnn = toy_classifier("vit"), toy_classifier()
    cnn.spec = replace(cnn.spec, cam_layer=None)
    explainers = {
        "asked": build_explainer(vit, method, layer="encoder.layers.encoder_layer_1.ln"),
        "the spec's": build_explainer(vit, method),
        "the last tap": build_explainer(cnn, method),
    }
    found = {name: explainer.layer for name, explainer in explainers.items() if isinstance(explainer, LayerExplainer)}
    assert found == {"asked": NORM.format(1), "the spec's": NORM.format(2), "the last tap": "stage3"}


def test_layers_that_cannot_be_explained(toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="'stag2' is not a layer of ToyCNN; similar names: stage2"):
        GradCAM(toy_classifier(), "stag2")
    with pytest.raises(InputError, match=r"layer 'head' returns \(1, 5\): expected a feature map"):
        GradCAM(toy_classifier(), "head")
    last = "encoder.layers.encoder_layer_2"
    with pytest.raises(InputError, match=f"expected a layer whose patches reach the logits of toy_vit, got '{last}'"):
        GradCAM(toy_classifier("vit"), last)


def test_an_untrained_head_is_no_wrong_layer(toy_classifier: Make) -> None:
    classifier = toy_classifier("vit")
    nn.init.zeros_(classifier.module.get_submodule("heads.head").get_parameter("weight"))
    assert GradCAM(classifier, NORM.format(1))(images(), TARGETS).eq(0).all()


def test_half_precision(toy_classifier: Make) -> None:
    """Under autocast the map is still float32 and about the same."""
    explainer = GradCAM(toy_classifier(), "stage3")
    exact = explainer(images(), TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = explainer(images(), TARGETS)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.05 * float(exact.max()))


# The reference numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_reference_activations_and_gradients(shared_dir: Path, name: str) -> None:
    case = load_case(shared_dir, name)
    torch.testing.assert_close(case.classifier.logits(case.images), case.logits, rtol=0, atol=1e-4)
    found = activations_and_gradients(case.classifier, case.layer, case.images, case.targets)
    for values, wanted in zip(found, ("activations", "gradients"), strict=True):
        assert_close(as_map(case.classifier, values), case.expected[wanted])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("cam", "method"), [(GradCAM, "gradcam"), (GradCAMPlusPlus, "gradcampp"), (LayerCAM, "layercam")]
)
def test_reference_numbers(shared_dir: Path, name: str, cam: type[GradientCAM], method: str) -> None:
    case = load_case(shared_dir, name)
    expected = case.expected[method]
    found = activations_and_gradients(case.classifier, case.layer, case.images, case.targets)
    activations, gradients = (as_map(case.classifier, values) for values in found)
    explainer = cam(case.classifier, case.layer)
    assert_close(explainer.combine(activations, gradients), expected["raw"])
    maps = explainer.explain(case.images, case.targets)
    assert_close(maps, expected["raw"].relu())
    torch.testing.assert_close(finish(maps), expected["final"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_reference_eigencam(shared_dir: Path, name: str) -> None:
    case = load_case(shared_dir, name)
    raw, final = case.expected["eigencam"]["raw"], case.expected["eigencam"]["final"]
    found = EigenCAM.project(layer_output(case.classifier, case.layer, case.images))
    sign = (found * raw).sum((1, 2), keepdim=True).sign()
    assert_close(sign * found, raw)
    torch.testing.assert_close(finish(sign * found), final, rtol=0, atol=1e-4)
