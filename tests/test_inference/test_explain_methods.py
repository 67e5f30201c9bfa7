import importlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tame.checkpoints.classifier import load_classifier
from tame.classifier import FrozenClassifier
from tame.data import Crop
from tame.explainers.build import build_explainer
from tame.explainers.learned import load_explainer
from tame.functional.masking import min_max
from tame.inference import explain
from tame.presets import PRESETS
from tame.utils.checks import InputError
from toys import ToyCNN


def test_without_a_method_or_a_checkpoint_grad_cam_explains(toy_backbone, noise_files, caplog):
    with caplog.at_level(logging.WARNING, "tame"):
        first = explain(noise_files[0], toy_backbone, device="cpu")
        explain(noise_files[1], toy_backbone, device="cpu")
    assert (first.method, first.method_title) == ("gradcam", "Grad-CAM")
    assert caplog.messages == [  # once, not for every image
        "No trained explainer is shipped for toy_cnn: explaining with Grad-CAM. Train T-TAME with "
        "`tame train --backbone toy_cnn --data FOLDER --out RUN` or tame.train in Python, and give the folder RUN as "
        "the checkpoint."
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tame"):
        explain(noise_files[0], ToyCNN())
    (message,) = caplog.messages
    assert 'Train T-TAME with tame.train(classifier, data="FOLDER", out="RUN")' in message


def test_without_a_method_the_checkpoint_decides(trained, toy_backbone, noise_files, caplog):
    for attention, method in (("ttame", "ttame"), ("lcam-img", "lcam_img")):
        layers = ["stage1", "stage2"] if attention == "ttame" else ["stage2"]
        run = trained(toy_backbone, f"runs/{attention}", layers, attention)
        explanation = explain(noise_files[0], toy_backbone, 1, checkpoint=run, device="cpu")
        assert explanation.method == method
        classifier = load_classifier(toy_backbone, checkpoint=run, device="cpu")
        inputs = Crop.of(classifier.spec.preprocessing)(explanation.image)[None]
        expected = min_max(load_explainer(classifier, run)(inputs, torch.tensor([1])))[0]
        assert np.array_equal(explanation.map, expected.numpy())
        named = explain(noise_files[0], toy_backbone, 1, method=f"{method}@{run}", device="cpu")
        assert named.method == f"{method}@{run}"
        assert np.array_equal(named.map, explanation.map)
    assert not caplog.messages


def test_a_checkpoint_that_was_written_again_is_read_again(trained, toy_backbone, noise_files, built):
    run = trained(toy_backbone)
    explanations = [explain(noise_files[0], toy_backbone, 1, checkpoint=run, device="cpu") for _ in range(2)]
    assert len(built) == 1
    assert np.array_equal(explanations[0].map, explanations[1].map)
    torch.manual_seed(5)
    trained(toy_backbone)
    assert not np.array_equal(
        explain(noise_files[0], toy_backbone, 1, checkpoint=run, device="cpu").map, explanations[0].map
    )
    os.utime(Path(run) / "attention.safetensors")
    explain(noise_files[0], toy_backbone, 1, checkpoint=Path(run), device="cpu")
    assert len(built) == 3


def test_the_shipped_explainer_is_the_default(noise_files):
    explanation = explain(noise_files[0], device="cpu")
    assert (explanation.method, explanation.method_title, explanation.backbone) == (
        "ttame",
        "T-TAME",
        "efficientnet_lite0",
    )
    assert explanation.map.shape == (28, 28)


def test_arguments_of_the_method(toy_classifier, noise_files, built):
    classifier = toy_classifier()
    few, more, again = (explain(noise_files[0], classifier, 1, method="rise", masks=masks) for masks in (3, 30, 30))
    assert not np.array_equal(few.map, more.map)
    assert np.array_equal(more.map, again.map)
    assert len(built) == 2
    assert explain(noise_files[0], classifier, 1, method="layercam", layer="stage1").map.shape == (16, 16)


@pytest.mark.parametrize(("preset", "weights"), [("tame", "confidence"), ("released", "logit")])
def test_the_preset_sets_arguments_of_the_method(toy_classifier, noise_files, preset, weights):
    classifier = toy_classifier()
    explainer = build_explainer(classifier, "rise", masks=8, weighting=weights)
    own = explain(noise_files[0], target=1, method=explainer)
    assert np.array_equal(explain(noise_files[0], classifier, 1, method="rise", masks=8, preset=preset).map, own.map)


@pytest.mark.parametrize("preset", ["paper", "released", "tame"])
def test_the_preset_names_the_layers(toy_backbone, noise_files, monkeypatch, preset):
    asked = []
    monkeypatch.setattr(FrozenClassifier, "with_layer_set", lambda self, name: asked.append(name) or self)
    explanation = explain(noise_files[0], toy_backbone, method="gradcam", preset=preset, device="cpu")
    assert asked == [PRESETS.get(preset).layers]
    assert explanation.preset == preset


def test_a_function_as_method(toy_classifier, noise_files):
    def darkness(images, targets):
        return -images.mean(1)

    classifier = toy_classifier()
    dark = explain(noise_files[0], classifier, method=darkness)
    light = explain(noise_files[0], classifier, method=lambda images, targets: images.mean(1))
    assert (dark.method, dark.method_title, light.method) == ("darkness", "darkness", "<lambda>")
    assert np.allclose(dark.map, 1 - light.map, atol=1e-6)


def test_a_function_by_its_name_is_the_one_of_now(toy_classifier, noise_files, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    classifier = toy_classifier()
    maps = []
    for sign in "+-":
        Path("own_method.py").write_text(f"def method(images, targets):\n    return {sign}images.mean(1)\n")
        os.utime("own_method.py", (len(maps), len(maps)))  # the import compares times
        if maps:
            importlib.reload(importlib.import_module("own_method"))
        maps.append(explain(noise_files[0], classifier, method="own_method:method").map)
    assert np.allclose(maps[0], 1 - maps[1], atol=1e-6)


def test_a_built_explainer(toy_classifier, noise_files, trained, toy_backbone):
    classifier = toy_classifier()
    rise = build_explainer(classifier, "rise", masks=4)
    explanation = explain(noise_files[0], target="dog", method=rise)
    assert (explanation.method, explanation.backbone, explanation.target) == ("rise", "toy_cnn", 1)
    named = explain(noise_files[0], classifier, "dog", method="rise", masks=4)
    assert np.array_equal(explanation.map, named.map)
    for own in (classifier, classifier.module, "toy_cnn"):
        assert np.array_equal(explain(noise_files[0], own, "dog", method=rise).map, explanation.map)
    function = build_explainer(classifier, lambda images, targets: images.mean(1))
    assert explain(noise_files[0], method=function).method == "<lambda>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": "resnet18"}, "expected the classifier of the built explainer, toy_cnn, or none, got resnet18"),
        ({"classifier": ToyCNN()}, "expected the classifier of the built explainer, toy_cnn, or none, got ToyCNN"),
        ({"checkpoint": "a"}, "expected no checkpoint beside a built explainer: it has its own"),
        ({"masks": 3, "weights": "b"}, "expected no masks, weights beside a built explainer"),
        ({"device": "cpu"}, "expected no device beside a built explainer"),
    ],
)
def test_what_contradicts_a_built_explainer(toy_classifier, noise_files, arguments, message):
    explainer = build_explainer(toy_classifier(), "centre")
    with pytest.raises(InputError, match=message):
        explain(noise_files[0], method=explainer, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradcan"}, "unknown method 'gradcan'; did you mean 'gradcam'?"),
        ({"method": 5}, "expected a method .*, got int"),
        ({"method": "rise", "mask": 3}, "argument '?mask'?.* masks"),
        ({"method": "gradcam", "masks": 3}, "gradcam .*argument '?masks'?.* layer"),
        ({"method": lambda images, targets: images.mean(1), "masks": 3}, "masks"),
        (
            {"method": "rise", "checkpoint": "run"},
            "expected a trained method such as ttame for the checkpoint run, got",
        ),
        ({"method": "ttame"}, "no explainer for toy_cnn comes with this package: train one with `tame train"),
        ({"checkpoint": "nowhere"}, "no checkpoint at nowhere"),
        ({"preset": "tames"}, "unknown preset 'tames'; did you mean 'tame'"),
        (
            {"weights": "random"},
            "expected weights only for a classifier that is loaded by name, got a FrozenClassifier",
        ),
        ({"device": "cuda:7"}, "got 'cuda:7'"),
    ],
)
def test_unusable_arguments(toy_classifier, noise_files, arguments, message):
    with pytest.raises(InputError, match=message):
        explain(noise_files[0], toy_classifier(), **arguments)
