"""Methods that need a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tame.attention import OLD_NAMES, build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import save_attention, save_backbone, shipped_checkpoint
from tame.classifier import FrozenClassifier
from tame.explainers import EXPLAINERS, LearnedExplainer, build_explainer, load_explainer
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
    explainer = build_explainer(classifier, method, checkpoint=tmp_path)
    with torch.no_grad():
        expected = model.attention(classifier(toy_images).features)[torch.arange(4), TARGETS]  # all classes, literally
    torch.testing.assert_close(explainer(toy_images, TARGETS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [name for name in EXPLAINERS if EXPLAINERS.get(name).learned])
def test_no_checkpoint_says_how_to_make_one(method: str, toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="tame train --backbone toy_cnn"):
        build_explainer(toy_classifier(layers=["stage3"]), method)


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
    with pytest.raises(InputError, match=f"holds an attention mechanism {kind}: use the method {right}, not {method}"):
        build_explainer(classifier, method, checkpoint=tmp_path)


class TestLoadExplainer:
    def test_the_shipped_one(self) -> None:
        """EfficientNet-Lite0's comes with the package; a loaded classifier and its name give the same."""
        classifier = load_classifier("efficientnet_lite0", device="cpu")
        explainer = load_explainer(classifier)
        assert isinstance(explainer, LearnedExplainer) and explainer.method == "ttame"
        assert explainer.arguments == {"checkpoint": str(shipped_checkpoint("efficientnet_lite0"))}
        assert explainer.classifier.module is classifier.module  # parameters are shared
        image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        maps = explainer(image, torch.tensor([281]))
        assert torch.equal(load_explainer("efficientnet_lite0")(image, torch.tensor([281])), maps)
        built = build_explainer(classifier)
        assert torch.equal(built(image, torch.tensor([281])), maps)
        assert (built.method, built.arguments) == (explainer.method, explainer.arguments)

    def test_any_kind_or_the_asked_one(self, toy_classifier: Make, tmp_path: Path) -> None:
        classifier = toy_classifier(layers=["stage3"])
        saved(classifier, "lcam-fm-a", tmp_path)
        explainer = load_explainer(classifier, tmp_path)
        assert (explainer.method, explainer.arguments) == ("lcam_fm", {"checkpoint": str(tmp_path)})
        assert load_explainer(classifier, tmp_path, "lcam_fm").method == "lcam_fm"
        with pytest.raises(InputError, match="holds an attention mechanism lcam-fm-a: use the method lcam_fm, not tta"):
            load_explainer(classifier, tmp_path, "ttame")

    def test_layers_are_the_checkpoints_where_none_are_named(
        self, toy_backbone: str, toy_images: Tensor, tmp_path: Path
    ) -> None:
        trained = load_classifier(toy_backbone, weights="random", layers=["stage2", "stage3"], device="cpu")
        model = saved(trained, "ttame", tmp_path)
        free = load_classifier(toy_backbone, weights="random", device="cpu")
        assert free.layers == ("stage1", "stage2", "stage3") and not free.layers_named
        explainer = load_explainer(free, tmp_path)
        assert explainer.classifier.layers == ("stage2", "stage3") and not explainer.classifier.layers_named
        assert explainer.classifier.module is free.module and free.layers == ("stage1", "stage2", "stage3")
        assert explainer.classifier.source == free.source
        with torch.no_grad():
            expected = model.maps(toy_images, TARGETS)
        assert torch.equal(explainer(toy_images, TARGETS), expected)
        again = load_explainer(trained, tmp_path)
        assert again.classifier is trained  # nothing to change

    def test_named_layers_must_be_the_checkpoints(self, toy_backbone: str, tmp_path: Path) -> None:
        saved(load_classifier(toy_backbone, weights="random", layers=["stage3"], device="cpu"), "ttame", tmp_path)
        named = load_classifier(toy_backbone, weights="random", layers=["stage2"], device="cpu")
        with pytest.raises(InputError, match="layers stage3, not stage2"):
            load_explainer(named, tmp_path)

    def test_a_classifier_by_name_takes_the_weights_of_the_checkpoint(self, toy_backbone: str, tmp_path: Path) -> None:
        trained = load_classifier(toy_backbone, weights="random", seed=7, device="cpu")
        with torch.no_grad():
            trained.module.get_submodule("head").get_parameter("bias").add_(1)
        saved(trained, "ttame", tmp_path)
        save_backbone(tmp_path, trained)
        for explainer in (
            load_explainer(toy_backbone, tmp_path),
            build_explainer(toy_backbone, "ttame", checkpoint=tmp_path),
            build_explainer(toy_backbone, f"ttame@{tmp_path}"),
        ):
            assert explainer.classifier.weights_hash == trained.weights_hash
            assert explainer.arguments == {"checkpoint": str(tmp_path)}

    def test_no_such_checkpoint(self, toy_classifier: Make, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no explainer for toy_cnn comes with this package: train one with `tame"):
            load_explainer(toy_classifier())
        with pytest.raises(InputError, match="no checkpoint of lcam_img for toy_cnn .* --attention lcam-img"):
            load_explainer(toy_classifier(), method="lcam_img")
        with pytest.raises(InputError, match="nowhere"):
            load_explainer(toy_classifier(), tmp_path / "nowhere")
