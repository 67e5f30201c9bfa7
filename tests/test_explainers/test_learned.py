"""Methods that need a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tame.attention import OLD_NAMES, build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.native import save_attention
from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.learned import LEARNED
from tame.options import MethodOptions
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
KINDS = [
    ("ttame", "ttame"),
    ("lcam_img", "lcam-img"),
    ("lcam_img", "lcam-img-a"),
    ("lcam_img", "lcam"),  # as earlier checkpoints call it
    ("lcam_fm", "lcam-fm"),
    ("lcam_fm", "lcam-fm-a"),
]
TARGETS = torch.tensor([0, 1, 2, 3])


def saved(classifier: FrozenClassifier, kind: str, folder: Path) -> ExplainedClassifier:
    attention = build_attention(OLD_NAMES.get(kind, kind), classifier.channels, 5).eval()
    model = ExplainedClassifier(classifier, attention)
    save_attention(folder, model, {"attention": kind, "output_size": "largest"})
    return model


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_maps_are_those_of_the_saved_mechanism(
    method: str, kind: str, toy_classifier: Make, toy_images: Tensor, tmp_path: Path
) -> None:
    classifier = toy_classifier(layers=["stage3"])
    model = saved(classifier, kind, tmp_path)
    explainer = build_explainer(classifier, MethodOptions(method, checkpoint=str(tmp_path)))
    with torch.no_grad():
        expected = model.attention(classifier(toy_images).features)[torch.arange(4), TARGETS]  # all classes, literally
    torch.testing.assert_close(explainer(toy_images, TARGETS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", LEARNED)
def test_no_checkpoint_says_how_to_make_one(method: str, toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="tame train --backbone toy_cnn"):
        build_explainer(toy_classifier(layers=["stage3"]), MethodOptions(method))


@pytest.mark.parametrize(
    ("kind", "method", "right"),
    [
        ("ttame", "lcam_img", "ttame"),
        ("lcam-img-a", "ttame", "lcam_img"),
        ("lcam-fm", "lcam_img", "lcam_fm"),
        ("lcam-img", "lcam_fm", "lcam_img"),
    ],
)
def test_a_checkpoint_belongs_to_one_method(
    kind: str, method: str, right: str, toy_classifier: Make, tmp_path: Path
) -> None:
    classifier = toy_classifier(layers=["stage3"])
    saved(classifier, kind, tmp_path)
    with pytest.raises(InputError, match=f"holds an attention mechanism {kind}: use --method {right}, not {method}"):
        build_explainer(classifier, MethodOptions(method, checkpoint=str(tmp_path)))
