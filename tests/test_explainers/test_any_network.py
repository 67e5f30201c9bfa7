"""Networks that cannot be traced, and layers with channels last: the maps of their ordinary twins."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from cam_reference import assert_close
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.explainers import build_explainer
from toys import TOY_SPECS, ToyCNN

CAMS = ("gradcam", "gradcam++", "layercam", "xgradcam", "eigencam", "scorecam", "ablationcam")
ARGUMENTS: dict[str, dict[str, Any]] = {"rise": {"masks": 20}}
METHODS = (*CAMS, "rise", "iia", "iia_released", "integrated_gradients")
TARGETS = torch.tensor([4, 1, 2])


def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Untraceable(ToyCNN):
    """What runs depends on the values."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(inputs)))
        return self.head(features.mean((2, 3)) if features.sum() > -1 else features.amax((2, 3)))


class ChannelsLast(ToyCNN):
    """The second stage's output is (B, h, w, C); a part of it bypasses the third one."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.norm = nn.Identity(), nn.LayerNorm(12)
        self.join = nn.Conv2d(12, 16, 2, stride=2)

    def forward(self, inputs: Tensor) -> Tensor:
        second = self.last(self.stage2(self.stage1(inputs)).permute(0, 2, 3, 1))
        second = self.norm(second).permute(0, 3, 1, 2)
        return self.head((self.stage3(second) + self.join(second)).mean((2, 3)))


class ChannelsFirst(ChannelsLast):
    """Computes the same, with the layer's channels first."""

    def forward(self, inputs: Tensor) -> Tensor:
        second = self.last(self.stage2(self.stage1(inputs))).permute(0, 2, 3, 1)
        second = self.norm(second).permute(0, 3, 1, 2)
        return self.head((self.stage3(second) + self.join(second)).mean((2, 3)))


def frozen(build: type[nn.Module], layer: str) -> FrozenClassifier:
    torch.manual_seed(0)
    return FrozenClassifier(replace(TOY_SPECS["cnn"], cam_layer=layer), build(), [layer])


def explained(method: str, build: type[nn.Module], layer: str) -> Tensor:
    return build_explainer(frozen(build, layer), method, **ARGUMENTS.get(method, {}))(images(), TARGETS)


@pytest.mark.parametrize("layer", ["stage2", "stage3"])
@pytest.mark.parametrize("method", METHODS)
def test_untraceable_networks(method: str, layer: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tame"):
        found = explained(method, Untraceable, layer)
    expected = explained(method, ToyCNN, layer)
    assert expected.any()
    assert_close(found, expected)
    whole = [f"toy_cnn cannot be split at {layer}: the whole network is run for each change"]
    assert caplog.messages == (whole if method in ("ablationcam", "iia") else [])


@pytest.mark.parametrize("method", [*CAMS, "iia", "iia_released"])
def test_channels_last(method: str) -> None:
    found, expected = (explained(method, build, "last") for build in (ChannelsLast, ChannelsFirst))
    assert found.shape == (3, 8, 8) and expected.any()
    assert_close(found, expected)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "ablationcam", "iia", "integrated_gradients"])
def test_swin(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """12 channels of 8 x 8 at the end of the first stage, behind which channels stay last."""
    torch.manual_seed(0)
    spec = BackboneSpec("swin", nn.Identity, Preprocessing(32, 32), class_names=tuple(map(str, range(10))))
    net = SwinTransformer([4, 4], 12, [2, 2], [2, 4], [4, 4], num_classes=10)
    classifier = FrozenClassifier(spec, net, ["features.1"])
    maps = build_explainer(classifier, method)(images(), TARGETS)
    assert maps.shape[1:] == ((32, 32) if method == "integrated_gradients" else (8, 8))
    assert maps.isfinite().all() and maps.std() > 0
    assert not caplog.records  # it can be cut
