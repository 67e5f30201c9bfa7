"""Explanations by a trained attention mechanism: one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.checkpoint import load_attention, read_metadata, shipped_checkpoint
from tame.checks import InputError
from tame.explainers.base import EXPLAINERS, CheckedExplainer
from tame.model import ExplainedClassifier
from tame.options import MethodOptions

LEARNED = ("lcam_img", "ttame")
"""Methods that need a checkpoint."""


class LearnedExplainer(CheckedExplainer):
    """The class maps of a trained attention mechanism.

    Args:
        model: Frozen classifier and attention mechanism.

    Source: Ntrougkas et al., "T-TAME", IEEE Access 2024.
    """

    def __init__(self, model: ExplainedClassifier) -> None:
        super().__init__(model.classifier)
        self.model = model.eval()

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W), before the sigmoid."""
        with torch.no_grad():
            return self.model.maps(images, targets)


@EXPLAINERS.register("ttame")
def _ttame(classifier: FrozenClassifier, options: MethodOptions) -> LearnedExplainer:
    """T-TAME with the checkpoint ``options.checkpoint``, else the one shipped for the backbone."""
    name = classifier.spec.name
    path = options.checkpoint or shipped_checkpoint(name)
    if not path:
        raise InputError(
            f"no explainer for {name} comes with this package: train one with `tame train --backbone {name} "
            "--data FOLDER --out RUN` (--epochs 0 only initialises it) and give it as --checkpoint RUN"
        )
    attention = load_attention(path, classifier).to(classifier.mean.device)
    return LearnedExplainer(ExplainedClassifier(classifier, attention))


@EXPLAINERS.register("lcam_img")
def _lcam_img(classifier: FrozenClassifier, options: MethodOptions) -> LearnedExplainer:
    """L-CAM-Img with the checkpoint ``options.checkpoint`` (Gkartzonika et al., ECCV Workshops 2022)."""
    if not options.checkpoint:
        raise InputError(
            f"expected --checkpoint of an L-CAM of {classifier.spec.name}, got none: train one with "
            f"`tame train --backbone {classifier.spec.name} --attention lcam --layers LAYER --data FOLDER --out RUN`"
        )
    kind = read_metadata(options.checkpoint)["attention"]
    if kind != "lcam":
        raise InputError(f"expected a checkpoint of lcam for lcam_img, got one of {kind} in {options.checkpoint}")
    attention = load_attention(options.checkpoint, classifier).to(classifier.mean.device)
    return LearnedExplainer(ExplainedClassifier(classifier, attention))
