"""Converting checkpoints of the authors' programs, and using them as they are."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tame
from authors_files import lightning, mechanism_of, snapshot, use
from tame.attention.model import ExplainedClassifier
from tame.backbones import BACKBONES, load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.convert import convert_checkpoint
from tame.checkpoints.native import checkpoint_hash, read_metadata, save_attention
from tame.classifier import FrozenClassifier, TokenLayout
from tame.cli.main import main
from tame.explainers import build_explainer
from tame.explainers.learned import load_explainer
from tame.utils.checks import InputError
from toys import TOY_SPECS, seeded

TARGETS = torch.tensor([0, 1, 2, 3])


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither DATA nor LIST of this machine."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def model(toy_backbone: str) -> ExplainedClassifier:
    classifier = load_backbone(toy_backbone)
    return ExplainedClassifier(classifier, mechanism_of(classifier))


@pytest.fixture
def drifted(model: ExplainedClassifier) -> ExplainedClassifier:
    """The model with a backbone whose statistics moved in training."""
    statistics: Any = model.classifier.module.get_submodule("stage1.1").running_mean
    statistics.add_(torch.linspace(0, 0.5, 8))
    return model


def expected_maps(model: ExplainedClassifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.attention(model.classifier(images).features)[torch.arange(4), TARGETS]


# --- a backbone with the usual weights


def test_an_ordinary_folder_is_written(model: ExplainedClassifier, toy_images: Tensor, tmp_path: Path) -> None:
    file = lightning(tmp_path / "resnet.ckpt", model, percent_list=(0, 0.5), extra=torch.zeros(1))
    folder = convert_checkpoint(file)
    assert folder == tmp_path / "resnet-explainer"
    assert sorted(path.name for path in folder.iterdir()) == ["attention.safetensors", "metadata.json"]
    metadata = read_metadata(folder)
    assert metadata["source"] == {"program": "T-TAME", "file": "resnet.ckpt", "sha256": checkpoint_hash(file)}
    assert (metadata["backbone"], metadata["weights"]) == ("toy_cnn", "random")
    assert metadata["weights_sha256"] == model.classifier.weights_hash
    assert (metadata["preset"], metadata["output_size"], metadata["epochs"]) == ("released", "first", 8)
    assert metadata["hyper_parameters"] == {  # all that JSON can hold
        "model_name": "toy_cnn",
        "layers": ["stage1", "stage2", "stage3"],
        "attention_version": "TAME",
        "epochs": 8,
        "num_classes": 5,
        "percent_list": [0, 0.5],
    }
    for checkpoint in file, folder:
        found = use(checkpoint).explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [None, "stage1,stage2,stage3", ["stage1", "stage2", "stage3"]])
def test_a_snapshot_needs_its_backbone(
    model: ExplainedClassifier, toy_images: Tensor, tmp_path: Path, layers: Any
) -> None:
    file = snapshot(tmp_path / "a.pt", model.attention.state_dict(), "module.attn_mech.")
    with pytest.raises(InputError, match=r"a\.pt does not name its backbone: give backbone"):
        convert_checkpoint(file)
    folder = convert_checkpoint(file, backbone="toy_cnn", layers=layers, out=str(tmp_path / "out"))
    assert read_metadata(folder)["source"]["program"] == "TAME"
    for checkpoint in file, folder:
        found = use(checkpoint, layers=layers).explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)


def test_lcam(toy_backbone: str, toy_images: Tensor, tmp_path: Path) -> None:
    classifier = load_backbone(toy_backbone, layers=["stage3"])
    model = ExplainedClassifier(classifier, mechanism_of(classifier, "lcam-img"))
    file = snapshot(tmp_path / "a.pt", model.attention.state_dict(), "module.attnM.")
    for checkpoint in file, convert_checkpoint(file, backbone="toy_cnn"):
        found = use(checkpoint, method="lcam_img").explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)


def test_evaluations_agree_with_those_of_our_own_checkpoint(
    model: ExplainedClassifier, photographs: Path, tmp_path: Path
) -> None:
    own = save_attention(tmp_path / "own", model, {"attention": "ttame", "output_size": "first"})
    file = lightning(tmp_path / "a.ckpt", model)
    rows = []
    for name, checkpoint in {"1": own, "2": convert_checkpoint(file), "3": file}.items():
        classifier = load_classifier("toy_cnn", checkpoint=checkpoint, device="cpu")
        table = tame.evaluate(
            "ttame", classifier, checkpoint=checkpoint, data=photographs, preset="released", out=tmp_path / name
        )
        rows.append(table.iloc[0])
    assert rows[0]["minmax/AD_50"] > 0
    measures = [name for name in rows[0].index if "/" in name]
    assert len(measures) >= 18
    assert rows[0][measures].equals(rows[1][measures]) and rows[0][measures].equals(rows[2][measures])


# --- a backbone that moved in training


def test_a_moved_backbone_comes_along(
    drifted: ExplainedClassifier, toy_images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    with caplog.at_level(logging.WARNING):
        folder = convert_checkpoint(file)
    assert "1 tensors differ, the most by 0.5 in stage1.1.running_mean" in caplog.text
    stored = load_file(folder / "backbone.safetensors")
    assert torch.equal(stored["stage1.1.running_mean"], drifted.classifier.module.state_dict()["stage1.1.running_mean"])
    for checkpoint in file, folder, folder / "attention.safetensors":
        caplog.clear()
        setup = use(checkpoint)
        assert f"The weights of toy_cnn are loaded from the checkpoint {checkpoint}" in caplog.text
        assert setup.classifier.weights_hash == drifted.classifier.weights_hash
        found = setup.explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(drifted, toy_images), atol=1e-5, rtol=0)
    assert read_metadata(folder)["weights_sha256"] == drifted.classifier.weights_hash
    with pytest.raises(InputError, match="was trained for weights with hash"):
        use(folder, weights="random")
    with pytest.raises(InputError, match="with other weights of toy_cnn than random .*: give no weights to use"):
        use(file, weights="random")


def test_other_methods_explain_the_same_backbone(drifted: ExplainedClassifier, tmp_path: Path) -> None:
    folder = convert_checkpoint(lightning(tmp_path / "a.ckpt", drifted))
    classifier = load_classifier("toy_cnn", checkpoint=folder, device="cpu")
    explainers = build_explainer(classifier, "gradcam"), build_explainer(classifier, "ttame", checkpoint=folder)
    assert {explainer.classifier.weights_hash for explainer in explainers} == {drifted.classifier.weights_hash}


def test_a_second_conversion_leaves_no_backbone_behind(
    drifted: ExplainedClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    folder = convert_checkpoint(file)
    assert (folder / "backbone.safetensors").is_file()
    state = drifted.classifier.module.state_dict()
    weights = tmp_path / "weights.pth"
    torch.save(state, weights)
    with caplog.at_level(logging.INFO, "tame"):
        convert_checkpoint(file, weights=str(weights))
    assert f"Removing {folder / 'backbone.safetensors'}: this conversion uses weights {weights}" in caplog.text
    assert not (folder / "backbone.safetensors").exists()
    assert use(folder, weights=str(weights)).classifier.weights == str(weights)


# --- the gate of a transformer's tokens


def test_the_gate_is_restored(toy_images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = seeded(TOY_SPECS["vit"])
    monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
    plain = load_backbone(spec)
    gated = FrozenClassifier(replace(spec, tokens=TokenLayout(1, (4, 4), gate=True)), plain.module, plain.layers)
    files = {}
    for name, classifier, version in ("plain", plain, "TAME"), ("gated", gated, "TTAME"):
        model = ExplainedClassifier(classifier, mechanism_of(classifier))
        nodes = [layer.removesuffix("_1") for layer in classifier.layers]
        files[name] = lightning(tmp_path / f"{name}.ckpt", model, version, layers=nodes), model
    folders = {name: convert_checkpoint(file) for name, (file, _) in files.items()}
    assert read_metadata(folders["gated"])["gate"] is True
    assert "gate" not in read_metadata(folders["plain"])
    for name, (file, model) in files.items():
        for checkpoint in file, folders[name]:
            setup = use(checkpoint, "toy_vit")
            assert setup.classifier.spec.tokens.gate is (name == "gated")
            found = setup.explainer(toy_images, TARGETS)
            torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)
    classifier = load_classifier("toy_vit", device="cpu")
    for name in ("gated", "plain"):
        found = load_explainer(classifier, folders[name])(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(files[name][1], toy_images), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="was trained for a token gate of True, not False"):
        tame.load_attention(folders["gated"], plain)


# --- what is refused


def test_what_cannot_be_converted(model: ExplainedClassifier, tmp_path: Path) -> None:
    file = lightning(tmp_path / "a.ckpt", model)
    own = save_attention(tmp_path / "own", model, {"attention": "ttame", "output_size": "first"})
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "backbone.safetensors").write_bytes(b"not ours")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "missing", {}, "expected a checkpoint of the authors' programs .*, got .*missing"),
        (own, {}, "expected a checkpoint of the authors' programs"),
        (own / "attention.safetensors", {}, "expected a checkpoint of the authors' programs"),
        (file, {"backbone": "resnet18"}, "trained for backbone toy_cnn, not resnet18: use it with toy_cnn"),
        (file, {"backbone": "nonsense"}, "unknown backbone 'nonsense'"),
        (file, {"layers": ["stage2", "stage3"]}, "was trained for layers stage1, stage2, stage3, not stage2, stage3"),
        (file, {"out": own}, "own contains another checkpoint: give another out"),
        (file, {"out": stray}, r"stray contains backbone\.safetensors of another checkpoint: give another out"),
        (file, {"out": file}, r"expected a folder as out, got the file .*a\.ckpt"),
    ]
    for path, options, message in cases:
        with pytest.raises(InputError, match=message):
            convert_checkpoint(path, **options)
    assert not (tmp_path / "a-explainer").exists()
    assert [path.name for path in stray.iterdir()] == ["backbone.safetensors"]


def test_another_architecture_is_refused(model: ExplainedClassifier, tmp_path: Path) -> None:
    body = {f"generic.body.{key}": value for key, value in model.classifier.module.state_dict().items()}
    state = {f"generic.attn_mech.{key}": value for key, value in model.attention.state_dict().items()}
    for changed, message in (
        ({key: value for key, value in body.items() if "stage2.0.bias" not in key}, r"missing stage2\.0\.bias$"),
        (body | {"generic.body.stage1.0.weight": torch.zeros(8, 3, 5, 5)}, r"stage1\.0\.weight is \(8, 3, 5, 5\), exp"),
        (body | {"generic.body.stage4.0.bias": torch.zeros(3)}, r"unexpected stage4\.0\.bias"),
    ):
        changed["generic.body.head.bias"] = torch.ones(5)
        file = snapshot(tmp_path / "a.pt", state | changed)
        with pytest.raises(InputError, match=message):
            convert_checkpoint(file, backbone="toy_cnn")
        with pytest.raises(InputError, match=message):
            use(file)


def test_a_stored_backbone_that_cannot_be_read(drifted: ExplainedClassifier, tmp_path: Path) -> None:
    folder = convert_checkpoint(lightning(tmp_path / "a.ckpt", drifted))
    stored = load_file(folder / "backbone.safetensors")
    stored["stage1.1.running_mean"] += 1
    save_file(stored, folder / "backbone.safetensors")
    with pytest.raises(InputError, match="was trained for weights with hash"):
        use(folder)
    (folder / "backbone.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"backbone\.safetensors holds no weights of a backbone: "):
        use(folder)


# --- the command line


def status(*arguments: object) -> int | str | None:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:  # of the parser
        return error.code


def test_command(
    drifted: ExplainedClassifier, photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    assert status("import", file, "--out", tmp_path / "new") == 0
    said = capfd.readouterr()
    assert f"tame explain --backbone toy_cnn --checkpoint {tmp_path / 'new'}\n" in said.out
    assert "1 tensors differ, the most by 0.5 in stage1.1.running_mean" in said.err
    explain = ["explain", photographs / "00.png", "--device", "cpu", "--checkpoint", file]
    assert status(*explain, "--backbone", "toy_cnn", "--out", tmp_path / "explained") == 0
    assert (tmp_path / "explained" / "manifest.json").is_file()
    capfd.readouterr()
    assert status(*explain, "--out", tmp_path / "none") == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.endswith("for backbone toy_cnn, not efficientnet_lite0: use it with toy_cnn")
    assert status("import") == 2
    assert status("import", file, file) == 2
