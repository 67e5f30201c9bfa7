"""Toy classifiers of 5 classes for images of 3 x 32 x 32; the fixture `toy_classifier` freezes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import BackboneSpec, Preprocessing, TokenLayout


class ToyCNN(nn.Module):
    """Three stages of 8 x 16 x 16, 12 x 8 x 8 and 16 x 4 x 4, with what makes freezing hard."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stage1 = self._stage(3, 8)
        self.stage2 = self._stage(8, 12)
        self.stage3 = self._stage(12, 16)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, classes)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):  # as if trained
                nn.init.normal_(part.running_mean, std=0.3)
                nn.init.uniform_(part.running_var, 0.5, 1.5)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(inputs)))
        return self.head(self.dropout(features.mean((2, 3))))


def toy_vit(classes: int = 5) -> VisionTransformer:
    """Return a transformer of 3 blocks, 1 + 4 x 4 tokens of 16 values."""
    module = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=classes)
    nn.init.normal_(module.heads.head.weight)  # torchvision starts it at zero
    return module


_PREPROCESSING = Preprocessing(resize=36, crop=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
_CLASSES = ("cat", "dog", "bird", "fish", "tree")
_STAGES = ("stage1", "stage2", "stage3")
_BLOCKS = tuple(f"encoder.layers.encoder_layer_{index}" for index in range(3))
_NORMS = tuple(f"{block}.ln_1" for block in _BLOCKS)

TOY_SPECS = {
    "cnn": BackboneSpec(
        name="toy_cnn",
        build=ToyCNN,
        preprocessing=_PREPROCESSING,
        class_names=_CLASSES,
        layers={"paper": _STAGES, "released": _STAGES, "proposed": _STAGES},
        cam_layer="stage3",
    ),
    "vit": BackboneSpec(
        name="toy_vit",
        build=toy_vit,
        preprocessing=_PREPROCESSING,
        class_names=_CLASSES,
        layers={"paper": _BLOCKS, "released": _NORMS, "proposed": _NORMS},
        cam_layer=_NORMS[-1],
        masking="vit",
        tokens=TokenLayout(prefix=1, grid=(4, 4)),
        layer_aliases={f"{block}.ln": f"{block}.ln_1" for block in _BLOCKS},
    ),
}


def seeded(spec: BackboneSpec, seed: int = 0) -> BackboneSpec:
    """Return a spec that builds the same random weights each time."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return spec.build()

    return replace(spec, build=build)
