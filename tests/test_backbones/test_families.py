"""A small member of each family of torchvision, and of many of timm: layers, a training step, explanations."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tame.attention import build_attention
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.backbones.load import load_backbone
from tame.backbones.timm import timm_spec
from tame.backbones.torchvision import torchvision_names, torchvision_spec
from tame.classifier import FrozenClassifier
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.spec import BackboneSpec
from tame.explainers.cams import GradCAM
from tame.utils.checks import InputError

Shape = tuple[int, int, int]


class Member(NamedTuple):
    """The smallest member of a family, an input it takes, and what is expected of it."""

    name: str
    size: tuple[int, int]
    layers: tuple[str, ...]
    shapes: tuple[Shape, ...]
    traced: bool = True
    arguments: Mapping[str, Any] = MappingProxyType({})  # of its builder

    @property
    def given(self) -> SpecOverrides:
        return SpecOverrides(input_size=self.size, num_classes=7)


def blocks(pattern: str, numbers: range) -> tuple[str, ...]:
    return tuple(pattern.format(number) for number in numbers)


VIT = "encoder.layers.encoder_layer_{}.ln_1"
TORCHVISION = {
    "alexnet": Member(
        "alexnet", (64, 64), ("features.1", "features.4", "features.11"), ((64, 15, 15), (192, 7, 7), (256, 3, 3))
    ),
    "convnext": Member(
        "convnext_tiny", (64, 64), ("features.3", "features.5", "features"), ((192, 8, 8), (384, 4, 4), (768, 2, 2))
    ),
    "densenet": Member(
        "densenet121",
        (64, 64),
        ("features.denseblock2", "features.denseblock3", "features"),
        ((512, 8, 8), (1024, 4, 4), (1024, 2, 2)),
    ),
    "efficientnet": Member(
        "efficientnet_b0", (64, 64), ("features.3", "features.5", "features"), ((40, 8, 8), (112, 4, 4), (1280, 2, 2))
    ),
    "googlenet": Member(
        "googlenet", (64, 64), ("inception3b", "inception4e", "inception5b"), ((480, 8, 8), (832, 4, 4), (1024, 2, 2))
    ),
    "inception": Member(
        "inception_v3", (127, 127), ("Mixed_5d", "Mixed_6e", "Mixed_7c"), ((288, 13, 13), (768, 6, 6), (2048, 2, 2))
    ),
    "maxvit": Member(
        "maxvit_t", (224, 224), ("blocks.1", "blocks.2", "blocks.3"), ((128, 28, 28), (256, 14, 14), (512, 7, 7))
    ),
    "mnasnet": Member(
        "mnasnet0_5", (64, 64), ("layers.9", "layers.11", "layers"), ((24, 8, 8), (48, 4, 4), (1280, 2, 2))
    ),
    "mobilenetv2": Member(
        "mobilenet_v2", (64, 96), ("features.6", "features.13", "features"), ((32, 8, 12), (96, 4, 6), (1280, 2, 3))
    ),
    "mobilenetv3": Member(
        "mobilenet_v3_small", (64, 64), ("features.3", "features.8", "features"), ((24, 8, 8), (48, 4, 4), (576, 2, 2))
    ),
    "regnet": Member(
        "regnet_y_400mf",
        (64, 64),
        ("trunk_output.block2", "trunk_output.block3", "trunk_output"),
        ((104, 8, 8), (208, 4, 4), (440, 2, 2)),
    ),
    "resnet": Member("resnet18", (64, 96), ("layer2", "layer3", "layer4"), ((128, 8, 12), (256, 4, 6), (512, 2, 3))),
    "shufflenetv2": Member(
        "shufflenet_v2_x0_5", (64, 64), ("stage2", "stage3", "conv5"), ((48, 8, 8), (96, 4, 4), (1024, 2, 2))
    ),
    "squeezenet": Member(
        "squeezenet1_1", (64, 64), ("features.4", "features.7", "features"), ((128, 15, 15), (256, 7, 7), (512, 3, 3))
    ),
    "swin_transformer": Member(
        "swin_t", (64, 96), ("features.3", "features.5", "permute"), ((192, 8, 12), (384, 4, 6), (768, 2, 3))
    ),
    "vgg": Member(
        "vgg11",
        (64, 64),
        ("features.14", "features.19", "features"),
        ((512, 8, 8), (512, 4, 4), (512, 2, 2)),
        arguments={"init_weights": False},
    ),
    "vision_transformer": Member("vit_b_32", (64, 64), blocks(VIT, range(9, 12)), ((768, 2, 2),) * 3),
}
NORMS = blocks("blocks.{}.norm1", range(9, 12))
TIMM = [
    Member("vit_tiny_patch16_224", (64, 96), NORMS, ((192, 4, 6),) * 3),
    Member("deit_tiny_distilled_patch16_224", (64, 64), NORMS, ((192, 4, 4),) * 3),
    Member("beit_base_patch16_224", (64, 64), NORMS, ((48, 4, 4),) * 3, arguments={"embed_dim": 48}),
    Member("eva02_tiny_patch14_224", (56, 56), NORMS, ((192, 4, 4),) * 3),
    Member("cait_xxs24_224", (64, 64), blocks("blocks.{}.norm1", range(21, 24)), ((192, 4, 4),) * 3),
    Member("xcit_nano_12_p16_224", (64, 64), NORMS, ((128, 4, 4),) * 3),
    Member("mixer_s32_224", (128, 128), blocks("blocks.{}.norm1", range(5, 8)), ((512, 4, 4),) * 3),
    Member(
        "swinv2_tiny_window8_256", (64, 64), ("layers.1", "layers.2", "norm"), ((192, 8, 8), (384, 4, 4), (768, 2, 2))
    ),
    Member("convnext_atto", (64, 96), ("stages.1", "stages.2", "norm_pre"), ((80, 8, 12), (160, 4, 6), (320, 2, 3))),
    Member(
        "mobilevit_xxs", (64, 64), ("stages.2", "stages.3", "final_conv"), ((48, 8, 8), (64, 4, 4), (320, 2, 2)), False
    ),
    Member(
        "mobilevitv2_050",
        (64, 64),
        ("stages.2", "stages.3", "final_conv"),
        ((128, 8, 8), (192, 4, 4), (256, 2, 2)),
        False,
    ),
    Member("efficientnet_lite0", (64, 64), ("blocks.2", "blocks.4", "bn2"), ((40, 8, 8), (112, 4, 4), (1280, 2, 2))),
    Member(
        "tf_efficientnet_lite0",
        (64, 96),
        ("blocks.2", "blocks.4", "bn2"),
        ((40, 8, 12), (112, 4, 6), (1280, 2, 3)),
        False,
    ),
    Member("resnet10t", (64, 64), ("layer2", "layer3", "layer4"), ((128, 8, 8), (256, 4, 4), (512, 2, 2))),
    Member("regnety_002", (64, 64), ("s2", "s3", "final_conv"), ((56, 8, 8), (152, 4, 4), (368, 2, 2))),
    Member("poolformer_s12", (64, 64), ("stages.1", "stages.2", "stages"), ((128, 8, 8), (320, 4, 4), (512, 2, 2))),
    Member("edgenext_xx_small", (64, 64), ("stages.1", "stages.2", "norm_pre"), ((48, 8, 8), (88, 4, 4), (168, 2, 2))),
]


@pytest.fixture(autouse=True)
def _fast_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the truncated normal initialisation, which takes seconds, by a plain one."""
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda tensor, *_args, std=1.0, **_kwargs: nn.init.normal_(tensor, std=std)
    )


def test_no_family_of_torchvision_is_missing() -> None:
    families = {models.get_model_builder(name).__module__.rpartition(".")[2] for name in torchvision_names()}
    assert families == set(TORCHVISION)
    for family, member in TORCHVISION.items():
        assert models.get_model_builder(member.name).__module__.endswith(f".{family}")


def check(spec: BackboneSpec, member: Member) -> None:
    """Propose layers, take one training step, explain by the mechanism and by Grad-CAM."""
    classifier = load_backbone(spec, "random")
    assert (classifier.layers, classifier.traced) == (member.layers, member.traced)
    images = torch.rand(2, 3, *member.size)
    with torch.no_grad():
        logits, features = classifier(images)
    assert tuple(tuple(feature.shape[1:]) for feature in features) == member.shapes
    torch.testing.assert_close(logits, classifier.logits(images), atol=1e-4, rtol=1e-4)

    explained = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 7))
    buffers = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    versions = {name: parameter._version for name, parameter in explained.named_parameters()}
    step(explained, images)
    moved = {name for name, parameter in explained.named_parameters() if parameter._version > versions[name]}
    assert moved == {name for name in versions if name.startswith("attention.")}
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in classifier.named_buffers())

    targets = logits.argmax(1)
    maps = explained.eval().maps(images, targets)
    assert maps.shape == (2, *member.shapes[0][1:]) and maps.isfinite().all()
    maps = GradCAM(classifier, member.layers[-1])(images, targets)
    assert maps.shape == (2, *member.shapes[-1][1:]) and maps.isfinite().all()
    assert (maps >= 0).all() and not any(part._forward_hooks for part in classifier.module.modules())


def step(explained: ExplainedClassifier, images: Tensor) -> None:
    """Take one step of training; the loss must reach every parameter of the mechanism."""
    optimiser = torch.optim.SGD(explained.attention.parameters(), lr=0.1)
    AttentionLoss()(explained.train().training_pass(images))["total"].backward()
    assert all(parameter.grad is not None for parameter in explained.attention.parameters())
    optimiser.step()


@pytest.mark.parametrize(
    "family",  # maxvit's windows need the full input
    [pytest.param(family, marks=[pytest.mark.slow] * (family == "maxvit")) for family in TORCHVISION],
)
def test_every_family_of_torchvision(family: str) -> None:
    member = TORCHVISION[family]
    check(torchvision_spec(member.name, member.given, member.arguments), member)


@pytest.mark.parametrize("member", TIMM, ids=[member.name for member in TIMM])
def test_families_of_timm(member: Member) -> None:
    pytest.importorskip("timm")
    check(timm_spec(member.name, member.given, member.arguments), member)


@pytest.mark.parametrize("name", ["levit_128s", "hiera_tiny_224"])
def test_families_of_timm_whose_tokens_have_no_single_grid_are_refused(name: str) -> None:
    pytest.importorskip("timm")
    classifier = load_backbone(f"timm:{name}", "random")
    with pytest.raises(InputError, match=f"most of timm:{name} works on token sequences of unknown layout"):
        _ = classifier.layers


def test_a_family_that_is_refused_has_feature_layers_where_it_has_maps() -> None:
    pytest.importorskip("timm")
    classifier = load_backbone("timm:levit_128s", "random", "stem.conv3,stem")
    assert isinstance(classifier, FrozenClassifier)
    assert classifier.channels == (64, 128)
