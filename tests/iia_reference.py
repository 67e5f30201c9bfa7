"""The reference numbers of IIA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from cam_reference import tiny_cnn
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.explainers import CheckedExplainer


def reference_maps(
    build: Callable[[FrozenClassifier], CheckedExplainer], case: dict[str, Any], precision: str
) -> Tensor:
    """Explain the stored input, unchecked: it leaves [0, 1] a little."""
    tokens = "vit_config" in case
    module = VisionTransformer(**case["vit_config"]) if tokens else tiny_cnn()
    module.load_state_dict(case["state_dict"])
    layout = TokenLayout(1, (4, 4)) if tokens else None
    spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple(map(str, range(10))), tokens=layout)
    explainer = build(FrozenClassifier(spec, module, ["encoder.ln" if tokens else "stage3"]))
    classifier = explainer.classifier.to(torch.float64 if precision == "f64" else torch.float32)
    given = case["input"].to(classifier.mean) * classifier.std + classifier.mean
    return explainer.explain(given, case["targets"])
