"""Explanations by a trained attention mechanism: one forward pass."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tame.attention import LCAM_FORMS
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.classifier import as_classifier, checkpoint_spec, load_classifier
from tame.checkpoints.native import load_attention, read_metadata, shipped_checkpoint
from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


class LearnedExplainer(CheckedExplainer):
    """The class maps of a trained attention mechanism, in one forward pass.

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
    """Return the name of the method that uses an attention mechanism.

    Args:
        attention: Name of the attention mechanism, see `tame list attention`.

    Example:
        >>> method_of("ttame-sigmoid"), method_of("lcam-img-a")
        ('ttame', 'lcam_img')
    """
    if attention not in LCAM_FORMS:
        return "ttame"
    return {"image": "lcam_img", "features": "lcam_fm"}[LCAM_FORMS[attention].masks]


def load_explainer(
    classifier: FrozenClassifier | nn.Module | str | Path,
    checkpoint: str | Path | None = None,
    method: str | None = None,
) -> LearnedExplainer:
    """Load the trained attention mechanism of a checkpoint, T-TAME or L-CAM, as an explainer.

    Unless the user named the classifier's feature layers, the classifier is read at the layers of the checkpoint;
    its parameters are shared.

    Args:
        classifier: The classifier that the mechanism was trained for: frozen, a network, or a name of
            `tame list backbones`.
        checkpoint: Folder or file of the checkpoint; default: the T-TAME explainer that is shipped for the backbone.
        method: Method that the checkpoint must be of (ttame, lcam_img, lcam_fm); default: any.

    Raises:
        InputError: If there is no such checkpoint, or it is of another method, backbone, weights, layers or classes.

    Example:
        >>> explainer = load_explainer("efficientnet_lite0")
        >>> explainer(torch.rand(1, 3, 224, 224), torch.tensor([281])).shape
        torch.Size([1, 28, 28])
    """
    classifier = classifier_for(classifier, checkpoint)
    path = checkpoint or shipped_checkpoint(classifier.spec.name)
    if not path:
        raise InputError(_none_shipped(classifier.spec.name, method))
    kind = read_metadata(path)["attention"]
    if method and (right := method_of(kind)) != method:
        raise InputError(f"{path} holds an attention mechanism {kind}: use the method {right}, not {method}")
    classifier = _at_layers_of(path, classifier)
    attention = load_attention(path, classifier).to(classifier.mean.device)
    explainer = LearnedExplainer(ExplainedClassifier(classifier, attention))
    explainer.method, explainer.arguments = method_of(kind), {"checkpoint": str(path)}
    return explainer


def classifier_for(
    classifier: FrozenClassifier | nn.Module | str | Path, checkpoint: str | Path | None
) -> FrozenClassifier:
    """Return a classifier; one that is loaded by name takes the weights that its checkpoint brings along.

    Args:
        classifier: What `as_classifier` takes.
        checkpoint: Of the attention mechanism, None without one.
    """
    if checkpoint and isinstance(classifier, str | Path):
        return load_classifier(classifier, checkpoint=checkpoint)
    return as_classifier(classifier)


def _at_layers_of(path: str | Path, classifier: FrozenClassifier) -> FrozenClassifier:
    """Return the classifier with the feature layers, and the gate of its token layout, of a checkpoint."""
    if classifier.layers_named:
        return classifier
    spec, layers = checkpoint_spec(path, classifier.spec)
    if (layers, spec) == (classifier.layers, classifier.spec):
        return classifier
    return classifier.changed(spec, layers, named=False)


def _none_shipped(backbone: str, method: str | None) -> str:
    known = method in (None, "ttame")
    what = "no explainer" if known else f"no checkpoint of {method}"
    attention = "" if known else f"--attention {str(method).replace('_', '-')} "
    hint = " (--epochs 0 only initialises it)" if known else ""
    return (
        f"{what} for {backbone} comes with this package: train one with `tame train --backbone {backbone} "
        f"{attention}--data FOLDER --out RUN`{hint} and give RUN as its checkpoint"
    )


def _ttame(classifier: FrozenClassifier, checkpoint: str | Path | None = None) -> LearnedExplainer:
    return load_explainer(classifier, checkpoint, "ttame")


def _lcam_img(classifier: FrozenClassifier, checkpoint: str | Path | None = None) -> LearnedExplainer:
    return _lcam(classifier, checkpoint, "lcam_img")


def _lcam_fm(classifier: FrozenClassifier, checkpoint: str | Path | None = None) -> LearnedExplainer:
    return _lcam(classifier, checkpoint, "lcam_fm")


def _lcam(classifier: FrozenClassifier, checkpoint: str | Path | None, method: str) -> LearnedExplainer:
    if not checkpoint:  # none comes with the package
        raise InputError(_none_shipped(classifier.spec.name, method))
    return load_explainer(classifier, checkpoint, method)


EXPLAINERS.register("ttame")(
    Method(
        title="T-TAME",
        summary="trained attention mechanism over several feature layers",
        cost="1 forward",
        build=_ttame,
        paper="Ntrougkas et al., IEEE Access 2024",
        learned=True,
    )
)
for _name, _title, _masked, _build in (
    ("lcam_img", "L-CAM-Img", "image", _lcam_img),
    ("lcam_fm", "L-CAM-Fm", "feature map", _lcam_fm),
):
    EXPLAINERS.register(_name)(
        Method(
            title=_title,
            summary=f"trained 1x1 convolution over the last feature layer; its map masks the {_masked} in training",
            cost="1 forward",
            build=_build,
            paper="Gkartzonika et al., ECCV-W 2022",
            learned=True,
        )
    )
