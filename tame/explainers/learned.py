"""Explanations by a trained attention mechanism: one forward pass."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tame.attention import LCAM_FORMS
from tame.backbones import FrozenClassifier
from tame.checkpoint import load_attention, read_metadata, shipped_checkpoint
from tame.checks import InputError
from tame.explainers.base import EXPLAINERS, CheckedExplainer
from tame.model import ExplainedClassifier
from tame.options import MethodOptions

LEARNED = ("lcam_fm", "lcam_img", "ttame")
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


def method_of(attention: str) -> str:
    """Return the method that explains by an attention mechanism, by its registered name.

    Example:
        >>> method_of("ttame-sigmoid"), method_of("lcam-img-a")
        ('ttame', 'lcam_img')
    """
    if attention not in LCAM_FORMS:
        return "ttame"
    return {"image": "lcam_img", "features": "lcam_fm"}[LCAM_FORMS[attention].masks]


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
    return _learned("ttame", path, classifier)


@EXPLAINERS.register("lcam_fm")
def _lcam_fm(classifier: FrozenClassifier, options: MethodOptions) -> LearnedExplainer:
    """L-CAM-Fm, or its A form, with the checkpoint ``options.checkpoint`` (Gkartzonika et al., ECCV-W 2022)."""
    return _lcam("lcam_fm", classifier, options)


@EXPLAINERS.register("lcam_img")
def _lcam_img(classifier: FrozenClassifier, options: MethodOptions) -> LearnedExplainer:
    """L-CAM-Img, or its A form, with the checkpoint ``options.checkpoint`` (Gkartzonika et al., ECCV-W 2022)."""
    return _lcam("lcam_img", classifier, options)


def _lcam(method: str, classifier: FrozenClassifier, options: MethodOptions) -> LearnedExplainer:
    if not options.checkpoint:
        name = classifier.spec.name
        raise InputError(
            f"expected --checkpoint of an L-CAM of {name}, got none: train one with `tame train --backbone {name} "
            f"--attention {method.replace('_', '-')} --data FOLDER --out RUN` and give it as --checkpoint RUN"
        )
    return _learned(method, options.checkpoint, classifier)


def _learned(method: str, path: str | Path, classifier: FrozenClassifier) -> LearnedExplainer:
    """Load a checkpoint that belongs to ``method``."""
    kind = read_metadata(path)["attention"]
    if (right := method_of(kind)) != method:
        raise InputError(f"{path} holds an attention mechanism {kind}: use --method {right}, not {method}")
    attention = load_attention(path, classifier).to(classifier.mean.device)
    return LearnedExplainer(ExplainedClassifier(classifier, attention))
