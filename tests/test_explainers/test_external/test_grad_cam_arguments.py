"""Arguments of the methods of the library grad-cam: names, layers, values, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.external.grad_cam import LibraryCAM
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])


def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_names_are_matched_loosely(toy_classifier: Make) -> None:
    explainer = build_explainer(toy_classifier(), "grad-cam:kpca-cam", kernel="rbf", gamma=0.5)
    assert explainer.method == "grad-cam:KPCA_CAM"
    assert dict(explainer.arguments) == {"kernel": "rbf", "gamma": 0.5}
    other = build_explainer(toy_classifier(), "grad-cam:KPCA_CAM")
    assert not torch.allclose(explainer(images(), TARGETS), other(images(), TARGETS))


def test_the_layer_is_the_users_or_the_specs(toy_classifier: Make) -> None:
    assert build_explainer(toy_classifier(), "grad-cam:GradCAM", layer="stage1")(images(), TARGETS).shape[1] == 16
    vit = LibraryCAM(toy_classifier("vit"), "GradCAM", "encoder.layers.encoder_layer_1.ln")
    assert list(vit.layers) == ["encoder.layers.encoder_layer_1.ln_1"]  # as checkpoints call it


def test_of_the_call(toy_classifier: Make) -> None:
    plain = LibraryCAM(toy_classifier(), "GradCAM")(images(), TARGETS)
    smooth = LibraryCAM(toy_classifier(), "GradCAM", eigen_smooth=True)(images(), TARGETS)
    assert smooth.shape == plain.shape and not torch.allclose(smooth, plain)
    augmented = LibraryCAM(toy_classifier(), "GradCAM", aug_smooth=True)(images(), TARGETS)
    assert augmented.shape == (4, 32, 32) and augmented.max() <= 1  # scaled by the library


def test_a_base_method_by_name(toy_classifier: Make) -> None:
    named = LibraryCAM(toy_classifier(), "FinerCAM", "stage2", base_method="hirescam")(images(), TARGETS)
    default = LibraryCAM(toy_classifier(), "FinerCAM", "stage2")(images(), TARGETS)
    assert named.shape == default.shape and not torch.allclose(named, default)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("EigenKam", {}, "grad-cam has no method 'EigenKam'; did you mean EigenCAM? Its methods: AblationCAM, Eig"),
        ("", {}, "grad-cam has no method ''. Its methods: AblationCAM"),
        ("KPCA-CAM", {"kernal": "rbf"}, "grad-cam:KPCA_CAM takes no argument 'kernal'; did you mean 'kernel'? It"),
        ("GradCAM", {"targets": 3}, "takes no argument 'targets'; it takes layer, aug_smooth, eigen_smooth"),
        ("GradCAM", {"layer": "stag3"}, "'stag3' is not a layer of ToyCNN"),
        ("FullGrad", {"layer": "stage3"}, "FullGrad reads all layers that have a bias: expected no layer, got 'st"),
        ("SESS", {"pool": "min"}, "grad-cam:SESS cannot explain toy_cnn: pool has to be either 'mean' or"),
        ("FinerCAM", {"base_method": "Kam"}, "grad-cam has no method 'Kam'"),
    ],
)
def test_bad_ones(toy_classifier: Make, method: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build_explainer(toy_classifier(), f"grad-cam:{method}", **arguments)
    assert message in str(caught.value)


def test_a_bad_value_that_the_library_finds(toy_classifier: Make) -> None:
    explainer = build_explainer(toy_classifier(), "grad-cam:KPCA_CAM", kernel="no such kernel")
    with pytest.raises(InputError, match="grad-cam:KPCA_CAM cannot explain toy_cnn: .*kernel"):
        explainer(images(), TARGETS)


def test_a_layer_whose_patches_do_not_reach_the_logits(toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="expected a layer whose patches reach the logits of toy_vit"):
        LibraryCAM(toy_classifier("vit"), "GradCAM", "encoder.layers.encoder_layer_2")
    LibraryCAM(toy_classifier("vit"), "EigenCAM", "encoder.layers.encoder_layer_2")  # takes no gradient


def test_without_the_library(toy_classifier: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(InputError, match='pytorch_grad_cam is not installed: pip install "grad-cam"'):
        build_explainer(toy_classifier(), "grad-cam:GradCAM")
