import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tame.checkpoints.native
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.native import (
    checkpoint_hash,
    load_attention,
    read_metadata,
    save_attention,
    shipped_checkpoint,
)
from tame.classifier import FrozenClassifier
from tame.utils.checks import InputError
from toys import TOY_SPECS

DETAILS = {"attention": "ttame", "output_size": "first", "preset": "released", "epochs": 3}


def build(classifier, attention="ttame", output_size="first"):
    return ExplainedClassifier(classifier, build_attention(attention, classifier.channels, 5, output_size))


@pytest.fixture
def saved(toy_classifier, tmp_path):
    model = build(toy_classifier())
    save_attention(tmp_path / "runs" / "one", model, DETAILS)
    return tmp_path / "runs" / "one", model


@pytest.mark.parametrize("attention", ["ttame", "ttame-no-skip-no-norm", "ttame-sigmoid", "lcam-img", "lcam-fm-a"])
@pytest.mark.parametrize("file", ["", "attention.safetensors"])
def test_round_trip(toy_classifier, toy_images, tmp_path, attention, file):
    classifier = toy_classifier(layers=["stage3"])
    model = build(classifier, attention)
    model.training_pass(toy_images)  # batch norm's statistics have moved
    folder = save_attention(tmp_path, model, DETAILS | {"attention": attention})
    loaded = load_attention(folder / file, toy_classifier(layers=["stage3"]))
    assert type(loaded) is type(model.attention)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    features = classifier(toy_images).features
    expected = model.attention.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():  # memory is aligned differently, so the last digits may be others
        torch.testing.assert_close(loaded(features), model.attention.eval()(features), atol=1e-6, rtol=0)


def test_the_old_name_of_an_lcam_is_understood(toy_classifier, tmp_path):
    classifier = toy_classifier(layers=["stage3"])
    model = build(classifier, "lcam-img")
    save_attention(tmp_path, model, DETAILS | {"attention": "lcam"})
    assert read_metadata(tmp_path)["attention"] == "lcam-img"
    loaded = load_attention(tmp_path, classifier)
    assert torch.equal(loaded.op.weight, model.attention.op.weight)


def test_options_of_the_mechanism_survive(toy_classifier, tmp_path):
    for output_size in "first", "largest":
        save_attention(
            tmp_path, build(toy_classifier(), output_size=output_size), DETAILS | {"output_size": output_size}
        )
        assert load_attention(tmp_path, toy_classifier()).output_size == output_size


def test_the_classifier_is_described_and_not_stored(saved):
    folder, model = saved
    assert set(load_file(folder / "attention.safetensors")) == set(model.attention.state_dict())
    metadata = read_metadata(folder)
    assert metadata == json.loads((folder / "metadata.json").read_text())
    assert {name: metadata[name] for name in DETAILS} == DETAILS
    assert (metadata["backbone"], metadata["weights"], metadata["num_classes"]) == ("toy_cnn", "random", 5)
    assert metadata["layers"] == ["stage1", "stage2", "stage3"]
    assert metadata["weights_sha256"] == model.classifier.weights_hash
    assert {"tame", "torch"} <= set(metadata["versions"])
    assert sorted(path.name for path in folder.iterdir()) == ["attention.safetensors", "metadata.json"]


def test_the_tensors_file_is_enough(saved, toy_classifier):
    folder, _ = saved
    (folder / "metadata.json").unlink()
    load_attention(folder, toy_classifier())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("backbone", "was trained for backbone toy_cnn, not other$"),
        ("weights", r"was trained for weights with hash [0-9a-f]{12}\.\.\., not [0-9a-f]{12}\.\.\.$"),
        ("layers", "was trained for layers stage1, stage2, stage3, not stage2, stage3$"),
        ("classes", "was trained for number of classes 5, not 4; weights with hash"),
        ("all", "was trained for backbone toy_cnn, not toy_vit; layers stage1.*; weights with hash"),
    ],
)
def test_another_classifier_is_refused(saved, toy_classifier, other, message):
    spec = TOY_SPECS["cnn"]
    if other == "weights":
        classifier = toy_classifier(seed=1)
    elif other == "layers":
        classifier = toy_classifier(layers=["stage2", "stage3"])
    elif other == "all":
        classifier = toy_classifier("vit")
    elif other == "backbone":
        classifier = FrozenClassifier(replace(spec, name="other"), toy_classifier().module, spec.layers["proposed"])
    else:
        smaller = replace(spec, class_names=spec.class_names[:4])
        classifier = FrozenClassifier(smaller, type(toy_classifier().module)(4), spec.layers["proposed"])
    with pytest.raises(InputError, match=message) as error:
        load_attention(saved[0], classifier)
    assert str(saved[0]) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean 0.4, 0.5, 0.6, not 0.5, 0.5, 0.5"),
        ({"std": (1.0, 1.0, 1.0)}, "std 0.2, 0.25, 0.3, not 1.0, 1.0, 1.0"),
        ({"resize": 40}, "resize 36, not 40"),
        ({"crop": 24}, "crop 32, not 24"),
        ({"interpolation": "bicubic"}, "interpolation bilinear, not bicubic"),
    ],
)
def test_another_preprocessing_is_refused(saved, toy_classifier, change, message):
    spec = TOY_SPECS["cnn"]
    changed = replace(spec, preprocessing=replace(spec.preprocessing, **change))
    classifier = FrozenClassifier(changed, toy_classifier().module, spec.layers["proposed"])
    with pytest.raises(InputError, match=f"was trained for {message}$"):
        load_attention(saved[0], classifier)


def test_a_checkpoint_of_an_earlier_version_has_no_preprocessing(saved, toy_classifier, monkeypatch):
    folder, model = saved
    known = tame.checkpoints.native.describe(model.classifier)
    before = {name: value for name, value in known.items() if name != "preprocessing"}
    monkeypatch.setattr(tame.checkpoints.native, "describe", lambda _: before)
    save_attention(folder, model, DETAILS)
    monkeypatch.undo()
    assert "preprocessing" not in read_metadata(folder)
    load_attention(folder, toy_classifier())


def test_a_file_of_tensors_that_is_no_checkpoint(tmp_path, toy_classifier):
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match=r"other\.safetensors is no checkpoint .* it carries no metadata"):
        load_attention(file, toy_classifier())


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_a_truncated_file(saved, toy_classifier, keep):
    file = saved[0] / "attention.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"attention\.safetensors is no checkpoint of an attention mechanism: "):
        load_attention(saved[0], toy_classifier())


@pytest.mark.parametrize("name", ["", "missing", "missing/attention.safetensors"])
def test_a_missing_checkpoint(tmp_path, toy_classifier, name):
    with pytest.raises(InputError, match=r"no checkpoint at .*: expected a folder with attention\.safetensors"):
        load_attention(tmp_path / name, toy_classifier())


def test_a_checkpoint_of_another_format(saved, toy_classifier, monkeypatch):
    folder, model = saved
    monkeypatch.setattr(tame.checkpoints.native, "FORMAT", "7")
    save_attention(folder, model, DETAILS)
    monkeypatch.undo()
    with pytest.raises(InputError, match="expected a checkpoint of format 1, got 7 in "):
        load_attention(folder, toy_classifier())


def test_tensors_that_do_not_fit_the_metadata(saved, toy_classifier):
    folder, model = saved
    save_attention(folder, model, DETAILS | {"attention": "ttame-no-skip-no-norm"})
    with pytest.raises(InputError, match="the weights of the attention mechanism in .* do not match TAME: unexpected "):
        load_attention(folder, toy_classifier())


def test_a_crash_leaves_the_old_checkpoint(saved, toy_classifier, monkeypatch):
    folder, model = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def crash(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left")

    with torch.no_grad():
        model.attention.fuser.bias.add_(1)
    monkeypatch.setattr(Path, "write_bytes", crash)
    with pytest.raises(OSError, match="no space left"):
        save_attention(folder, model, DETAILS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_attention(folder, toy_classifier())


def test_hash_is_of_the_tensors(saved):
    folder, model = saved
    before = checkpoint_hash(folder)
    assert before == checkpoint_hash(folder / "attention.safetensors")
    (folder / "metadata.json").write_text("{}")
    assert checkpoint_hash(folder) == before
    with torch.no_grad():
        model.attention.fuser.bias.add_(1)
    save_attention(folder, model, DETAILS)
    assert checkpoint_hash(folder) != before


def test_no_checkpoint_comes_with_unknown_backbones():
    assert shipped_checkpoint("toy_cnn") is None
