"""Explanations by a trained attention mechanism: one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.checkpoint import load_attention, shipped_checkpoint
from tame.checks import InputError
from tame.explainers.base import EXPLAINERS
from tame.model import ExplainedClassifier
from tame.options import MethodOptions
from tame.types import Explainer


@EXPLAINERS.register("ttame")
def ttame(classifier: FrozenClassifier, options: MethodOptions) -> Explainer:
    """Explain with a trained attention mechanism, the shipped one unless ``options.checkpoint`` names another.

    Raises:
        InputError: If there is none for this backbone, or it belongs to another classifier.
    """
    path = options.checkpoint or shipped_checkpoint(classifier.spec.name)
    if path is None:
        name = classifier.spec.name
        raise InputError(
            f"no explainer for {name} comes with this package: train one with `tame train --backbone {name} "
            "--data FOLDER --out RUN` (--epochs 0 initialises it only) and give it as --checkpoint RUN"
        )
    attention = load_attention(path, classifier).to(classifier.mean.device)
    model = ExplainedClassifier(classifier, attention).eval()

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            return model.maps(images, targets)

    return explain
