"""Grad-CAM: hand values, the grad-cam library, the reference numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from brightness import brightness_classifier
from tame.backbones import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.checks import InputError
from tame.explainers import build_explainer
from tame.explainers.cams import GradCAM, activations_and_gradients
from tame.options import MethodOptions


def images(batch: int = 4, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


Make = Callable[..., FrozenClassifier]
NORM = "encoder.layers.encoder_layer_{}.ln_1"
TARGETS = torch.tensor([4, 1, 2, 0])


def test_by_hand() -> None:
    """The logit is the pixel sum, so every channel's weight is 1 and the map is the sum over channels."""
    given = images(side=4)
    maps = GradCAM(brightness_classifier(side=4), "0")(given, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(maps[:3], given[:3].sum(1))
    assert maps[3].eq(0).all()  # class 1 does not depend on the image


@pytest.mark.parametrize("layer", ["stage1.1", "stage2", "stage3.0", "stage3"])  # two have negative values
def test_against_the_library(toy_classifier: Make, layer: str) -> None:
    from pytorch_grad_cam import GradCAM as TheirGradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier = toy_classifier()
    for part in classifier.module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False  # the library cannot hook before an in-place activation
    ours = GradCAM(classifier, layer)(images(), TARGETS)
    classifier.module.requires_grad_()  # the library fails on a frozen one
    with TheirGradCAM(classifier.module, [classifier.module.get_submodule(layer)]) as theirs:
        raw = theirs.forward(
            classifier.normalise(images()), [ClassifierOutputTarget(int(target)) for target in TARGETS]
        )
    scaled = ours / (1e-7 + ours.amax((1, 2), keepdim=True) - ours.amin((1, 2), keepdim=True))
    scaled = scaled - scaled.amin((1, 2), keepdim=True)
    big = nn.functional.interpolate(scaled.unsqueeze(1), (32, 32), mode="bilinear", align_corners=False)[:, 0]
    big = big - big.amin((1, 2), keepdim=True)
    big = big / (1e-7 + big.amax((1, 2), keepdim=True))
    torch.testing.assert_close(big, torch.from_numpy(raw), rtol=0, atol=1e-4)


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


def test_which_layer(toy_classifier: Make) -> None:
    vit, cnn = toy_classifier("vit"), toy_classifier()
    cnn.spec = replace(cnn.spec, cam_layer="")
    explainers = {
        "asked": build_explainer(vit, MethodOptions("gradcam", cam_layer="encoder.layers.encoder_layer_1.ln")),
        "the spec's": build_explainer(vit, MethodOptions("gradcam")),
        "the last tap": build_explainer(cnn, MethodOptions("gradcam")),
    }
    found = {name: explainer.layer for name, explainer in explainers.items() if isinstance(explainer, GradCAM)}
    assert found == {"asked": NORM.format(1), "the spec's": NORM.format(2), "the last tap": "stage3"}


def test_layers_that_cannot_be_explained(toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="'stag2' is no layer of ToyCNN; near names: stage2"):
        GradCAM(toy_classifier(), "stag2")
    with pytest.raises(InputError, match=r"layer 'head' gives \(1, 5\): expected a feature map"):
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


def tiny_cnn() -> nn.Module:
    def stage(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
        parts: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(inputs, outputs, 3, padding=1)),
            ("bn", nn.BatchNorm2d(outputs)),
            ("relu", nn.ReLU()),
        ]
        return nn.Sequential(OrderedDict([*parts, ("pool", nn.MaxPool2d(2))] if pool else parts))

    return nn.Sequential(
        OrderedDict(
            stage1=stage(3, 8, True),
            stage2=stage(8, 12, True),
            stage3=stage(12, 16, False),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(16, 10),
        )
    )


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, Any]:
    return torch.load(shared_dir / "reference" / "gradcam.pt", weights_only=True)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("case", "kind", "layer"),
    [
        ("cnn_stage3", "cnn", "stage3"),
        ("cnn_stage2_prerelu", "cnn", "stage2.bn"),
        ("vit_last_ln_1", "vit", "encoder.layers.encoder_layer_2.ln_1"),
    ],
)
def test_reference_numbers(reference: dict[str, Any], case: str, kind: str, layer: str) -> None:
    module = tiny_cnn() if kind == "cnn" else VisionTransformer(**reference["vit_config"])
    module.load_state_dict(reference[f"{kind}_state_dict"])
    spec = BackboneSpec(
        name=kind,
        build=nn.Identity,
        preprocessing=Preprocessing(32, 32),
        class_names=tuple(map(str, range(10))),
        tokens=None if kind == "cnn" else TokenLayout(prefix=1, grid=(4, 4)),
    )
    classifier = FrozenClassifier(spec, module, [layer])
    given = reference["input"] * classifier.std + classifier.mean  # the stored input is normalised
    targets = reference[f"{kind}_targets"]
    torch.testing.assert_close(classifier.logits(given), reference[f"{kind}_logits"], rtol=0, atol=1e-4)
    expected = reference["results"][case]
    activations, gradients = activations_and_gradients(classifier, layer, given, targets)
    if kind == "vit":
        activations, gradients = (spec.tokens.to_map(values) for values in (activations, gradients))  # type: ignore[union-attr]
    for found, wanted in ((activations, expected["activations"]), (gradients, expected["gradients"])):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    raw = expected["gradcam"]["raw"].clamp(min=0)
    maps = GradCAM(classifier, layer).explain(given, targets)  # unchecked: the stored images leave [0, 1] a little
    torch.testing.assert_close(maps, raw, rtol=0, atol=1e-5 * float(raw.abs().max()))
