"""The forms of L-CAM, from arguments to explanations."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tame.attention import LCAM_FORMS, build_attention
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.backbones import BACKBONES
from tame.cli.main import main
from tame.explainers import MethodName
from tame.presets import PRESETS
from tame.utils.checks import InputError
from toys import TOY_SPECS, seeded

METHODS = {"lcam-img": "lcam_img", "lcam-img-a": "lcam_img", "lcam-fm": "lcam_fm", "lcam-fm-a": "lcam_fm"}


@pytest.fixture
def lcam(run_toy):
    """Return ``lcam("lcam-img", ...)``: train a form for one epoch, and return the folder."""

    def run(attention, **choices):
        return run_toy(**{"epochs": 1, "lr": None, "attention": attention, **choices}).folder

    return run


def terms(out):
    with (out / "logs" / "version_0" / "metrics.csv").open() as file:
        return {name.partition("/")[2] for row in csv.DictReader(file) for name in row if name.startswith("val/")}


@pytest.mark.parametrize("attention", LCAM_FORMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_form_trains_without_being_told_how(lcam, attention, preset):
    out = lcam(attention, preset=preset)
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["attention"] == attention
    assert metadata["layers"] == ["stage3"]  # the last of the preset's
    choices = metadata["choices"]
    assert choices["trainable"] == "all"
    assert choices["init"] == ("classifier" if preset == "tame" else "random")
    form = "cross-entropy" if attention.endswith("-a") else {"tame": "released"}.get(preset, preset)
    assert choices["loss"] == form
    shapes = terms(out) & {"area", "variation"}
    assert shapes == (set() if attention.endswith("-a") else {"area", "variation"})


@pytest.mark.parametrize("attention", LCAM_FORMS)
def test_training_moves_every_form(lcam, tmp_path, attention):
    start = load_file(lcam(attention, epochs=0, out=tmp_path / "start") / "attention.safetensors")
    after = load_file(lcam(attention, lr=0.5) / "attention.safetensors")
    assert all((after[name] - start[name]).abs().max() > 1e-4 for name in ("op.weight", "op.bias"))


def test_masking_features_and_masking_the_image_are_not_the_same(lcam, tmp_path):
    ends = [lcam(name, lr=0.5, out=tmp_path / name) for name in ("lcam-img-a", "lcam-fm-a")]
    images, features = (load_file(folder / "attention.safetensors")["op.weight"] for folder in ends)
    assert not torch.allclose(images, features, atol=1e-4)


@pytest.mark.parametrize("attention", LCAM_FORMS)
def test_a_trained_form_explains_and_is_evaluated(toy_backbone, photographs, tmp_path, capsys, monkeypatch, attention):
    monkeypatch.chdir(tmp_path)
    arguments = ["--backbone", toy_backbone, "--device", "cpu", "--num-workers", "0"]
    small = ["--epochs", "1", "--batch-size", "8", "--init-images", "4"]
    assert (
        main(["train", *arguments, *small, "--attention", attention, "--data", str(photographs), "--out", "run"]) == 0
    )
    method = METHODS[attention]
    expected = f"tame explain --method {method} --checkpoint run"
    assert expected in capsys.readouterr().out
    chosen = [*arguments, "--method", method, "--checkpoint", "run"]
    assert main(["explain", str(photographs / "00.png"), *chosen, "--out", "explained"]) == 0
    assert any((tmp_path / "explained").glob("**/*.npy"))
    assert main(["evaluate", *chosen, "--data", str(photographs), "--limit-images", "4", "--out", "evaluated"]) == 0
    assert MethodName.of(method).title in capsys.readouterr().out


def test_an_asked_layer_is_read(lcam):
    out = lcam("lcam-fm", layers=["stage2"])
    assert json.loads((out / "metadata.json").read_text())["layers"] == ["stage2"]


def test_features_whose_mask_changes_nothing_are_refused(lcam, monkeypatch, tmp_path):
    """After the last block of a transformer with a class token the patches no longer reach the logits."""
    spec = seeded(TOY_SPECS["vit"])
    monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
    with pytest.raises(InputError, match=r"encoder_layer_2 do not reach the logits.*name an earlier layer"):
        lcam("lcam-fm", backbone=spec.name, preset="paper")
    assert not (tmp_path / "run").exists()
    lcam("lcam-img", backbone=spec.name, preset="paper")  # a mask of the image does
    lcam("lcam-fm", backbone=spec.name, preset="released", resume=False)


def test_the_literal_gradient_of_a_feature_mask(toy_classifier, toy_images):
    """Written out: what lies behind stage3 of the toy network is a mean and a linear layer."""
    classifier = toy_classifier(layers=["stage3"])
    model = ExplainedClassifier(classifier, build_attention("lcam-fm-a", classifier.channels, 5))
    found = AttentionLoss("cross-entropy")(model.training_pass(toy_images))
    assert set(found) == {"cross_entropy", "total"}
    (gradient,) = torch.autograd.grad(found["total"], model.attention.op.weight)

    logits, (feature,) = classifier(toy_images)
    targets = logits.argmax(1)
    weight = model.attention.op.weight
    bias = model.attention.op.bias
    maps = torch.einsum("bc,bchw->bhw", weight[targets, :, 0, 0], feature) + bias[targets][:, None, None]
    pooled = (feature * maps.sigmoid().unsqueeze(1)).mean((2, 3))
    expected = 1.5 * F.cross_entropy(classifier.module.head(pooled), targets)
    torch.testing.assert_close(found["total"], expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight)[0], atol=1e-6, rtol=1e-4)
