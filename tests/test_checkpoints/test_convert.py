"""`tame import`, and files of the authors' programs given as --checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision import models

import tame
import tame.checkpoints.convert
import tame.explainers.setup
from authors_files import lightning, mechanism_of, snapshot
from tame.attention.model import ExplainedClassifier
from tame.backbones import BACKBONES, load_backbone
from tame.checkpoints.convert import import_checkpoint
from tame.checkpoints.native import checkpoint_hash, read_metadata, save_attention
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.cli.main import main
from tame.explainers.learned import LearnedExplainer
from tame.explainers.setup import Setup, set_up, set_up_together
from tame.functional.masking import min_max
from tame.options import CommonOptions, ImportOptions, MethodOptions
from tame.utils.checks import InputError
from toys import TOY_SPECS, seeded

Make = Callable[..., FrozenClassifier]
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


def bring_in(file: Path, **options: Any) -> Path:
    return import_checkpoint(ImportOptions([str(file)], **options))


def use(checkpoint: Path, backbone: str = "toy_cnn", method: str = "ttame", **options: Any) -> Setup:
    common = CommonOptions(backbone=backbone, device="cpu", **options)
    return set_up(common, MethodOptions(method, checkpoint=str(checkpoint)))


def expected_maps(model: ExplainedClassifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.attention(model.classifier(images).features)[torch.arange(4), TARGETS]


# --- a backbone as published


def test_an_ordinary_folder_is_written(model: ExplainedClassifier, toy_images: Tensor, tmp_path: Path) -> None:
    file = lightning(tmp_path / "resnet.ckpt", model, percent_list=(0, 0.5), extra=torch.zeros(1))
    folder = bring_in(file)
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


@pytest.mark.parametrize("layers", ["", "stage1,stage2,stage3"])
def test_a_snapshot_needs_its_backbone(
    model: ExplainedClassifier, toy_images: Tensor, tmp_path: Path, layers: str
) -> None:
    file = snapshot(tmp_path / "a.pt", model.attention.state_dict(), "module.attn_mech.")
    with pytest.raises(InputError, match=r"a\.pt does not name its backbone: give --backbone"):
        bring_in(file)
    folder = bring_in(file, backbone="toy_cnn", layers=layers, out=str(tmp_path / "out"))
    assert read_metadata(folder)["source"]["program"] == "TAME"
    for checkpoint in file, folder:
        found = use(checkpoint, layers=layers).explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)


def test_lcam(toy_backbone: str, toy_images: Tensor, tmp_path: Path) -> None:
    classifier = load_backbone(toy_backbone, layers=["stage3"])
    model = ExplainedClassifier(classifier, mechanism_of(classifier, "lcam-img"))
    file = snapshot(tmp_path / "a.pt", model.attention.state_dict(), "module.attnM.")
    for checkpoint in file, bring_in(file, backbone="toy_cnn"):
        found = use(checkpoint, method="lcam_img").explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)


def test_evaluations_agree_with_those_of_our_own_checkpoint(
    model: ExplainedClassifier, photographs: Path, tmp_path: Path
) -> None:
    own = save_attention(tmp_path / "own", model, {"attention": "ttame", "output_size": "first"})
    file = lightning(tmp_path / "a.ckpt", model)
    options: dict[str, Any] = {"backbone": "toy_cnn", "data": str(photographs), "device": "cpu", "num_workers": 0}
    metrics = [
        tame.evaluate(
            "ttame", **options, checkpoint=str(checkpoint), preset="released", out=str(tmp_path / name)
        ).metrics
        for name, checkpoint in {"1": own, "2": bring_in(file), "3": file}.items()
    ]
    assert metrics[0]["minmax/AD_50"].value > 0
    assert metrics[0] == metrics[1] == metrics[2]


# --- a backbone that moved in training


def test_a_moved_backbone_comes_along(
    drifted: ExplainedClassifier, toy_images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    with caplog.at_level(logging.WARNING):
        folder = bring_in(file)
    assert "1 tensors differ, the most by 0.5 in stage1.1.running_mean" in caplog.text
    stored = load_file(folder / "backbone.safetensors")
    assert torch.equal(stored["stage1.1.running_mean"], drifted.classifier.module.state_dict()["stage1.1.running_mean"])
    for checkpoint in file, folder, folder / "attention.safetensors":
        caplog.clear()
        setup = use(checkpoint)
        assert f"The weights of toy_cnn are those that came with {checkpoint}" in caplog.text
        assert setup.classifier.weights_hash == drifted.classifier.weights_hash
        found = setup.explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(drifted, toy_images), atol=1e-5, rtol=0)
    assert read_metadata(folder)["weights_sha256"] == drifted.classifier.weights_hash
    with pytest.raises(InputError, match="was trained for weights with hash"):
        use(folder, weights="random")
    with pytest.raises(InputError, match="through other weights of toy_cnn than random .*: leave --weights out"):
        use(file, weights="random")


def test_other_methods_explain_the_same_backbone(drifted: ExplainedClassifier, tmp_path: Path) -> None:
    folder = bring_in(lightning(tmp_path / "a.ckpt", drifted))
    common = CommonOptions(backbone="toy_cnn", device="cpu")
    asked = [(common, MethodOptions("gradcam")), (common, MethodOptions("ttame", checkpoint=str(folder)))]
    assert {setup.classifier.weights_hash for setup in set_up_together(asked, "cpu")} == {
        drifted.classifier.weights_hash
    }


def test_a_second_import_leaves_no_backbone_behind(
    drifted: ExplainedClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    folder = bring_in(file)
    assert (folder / "backbone.safetensors").is_file()
    state = drifted.classifier.module.state_dict()
    weights = tmp_path / "weights.pth"
    torch.save(state, weights)
    bring_in(file, weights=str(weights))
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
    folders = {name: bring_in(file) for name, (file, _) in files.items()}
    assert read_metadata(folders["gated"])["gate"] is True
    assert "gate" not in read_metadata(folders["plain"])
    for name, (file, model) in files.items():
        for checkpoint in file, folders[name]:
            setup = use(checkpoint, "toy_vit")
            assert setup.classifier.spec.tokens.gate is (name == "gated")
            found = setup.explainer(toy_images, TARGETS)
            torch.testing.assert_close(found, expected_maps(model, toy_images), atol=1e-5, rtol=0)
    common = CommonOptions(backbone="toy_vit", device="cpu")
    asked = [(common, MethodOptions("ttame", checkpoint=str(folders[name]))) for name in ("gated", "plain")]
    for setup, name in zip(set_up_together(asked, "cpu"), ("gated", "plain"), strict=True):
        found = setup.explainer(toy_images, TARGETS)
        torch.testing.assert_close(found, expected_maps(files[name][1], toy_images), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="was trained for a gate of its tokens True, not False"):
        tame.load_attention(folders["gated"], plain)


# --- what is refused


def test_refused_imports(model: ExplainedClassifier, tmp_path: Path) -> None:
    file = lightning(tmp_path / "a.ckpt", model)
    own = save_attention(tmp_path / "own", model, {"attention": "ttame", "output_size": "first"})
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "missing", {}, "expected a checkpoint of the authors' programs .*, got .*missing"),
        (own, {}, "expected a checkpoint of the authors' programs"),
        (own / "attention.safetensors", {}, "expected a checkpoint of the authors' programs"),
        (file, {"backbone": "resnet18"}, "trained for backbone toy_cnn, not resnet18; give it with --backbone toy_cnn"),
        (file, {"backbone": "nonsense"}, "unknown backbone 'nonsense'"),
        (file, {"layers": "stage2,stage3"}, "was trained for layers stage1, stage2, stage3, not stage2, stage3"),
        (file, {"out": str(own)}, "own holds another checkpoint: give another --out"),
        (file, {"out": str(file)}, "expected a folder as --out, got the file "),
    ]
    for path, options, message in cases:
        with pytest.raises(InputError, match=message):
            bring_in(path, **options)
    for files in [], ["a", "b"]:
        with pytest.raises(InputError, match=f"expected one file to import, got {len(files)}"):
            import_checkpoint(ImportOptions(files))
    assert not (tmp_path / "a-explainer").exists()


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
            bring_in(file, backbone="toy_cnn")
        with pytest.raises(InputError, match=message):
            use(file)


def test_a_stored_backbone_that_cannot_be_read(drifted: ExplainedClassifier, tmp_path: Path) -> None:
    folder = bring_in(lightning(tmp_path / "a.ckpt", drifted))
    stored = load_file(folder / "backbone.safetensors")
    stored["stage1.1.running_mean"] += 1
    save_file(stored, folder / "backbone.safetensors")
    with pytest.raises(InputError, match="was trained for weights with hash"):
        use(folder)
    (folder / "backbone.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"backbone\.safetensors holds no weights of a backbone: "):
        use(folder)


# --- the command line


def test_command(
    drifted: ExplainedClassifier, photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = lightning(tmp_path / "a.ckpt", drifted)
    assert main(["import", str(file), "--out", str(tmp_path / "new")]) == 0
    said = capfd.readouterr()
    assert f"tame explain --backbone toy_cnn --checkpoint {tmp_path / 'new'}\n" in said.out
    assert "1 tensors differ, the most by 0.5 in stage1.1.running_mean" in said.err
    explain = ["explain", str(photographs / "00.png"), "--device", "cpu", "--checkpoint", str(file)]
    assert main([*explain, "--backbone", "toy_cnn", "--out", str(tmp_path / "explained")]) == 0
    assert (tmp_path / "explained" / "manifest.json").is_file()
    capfd.readouterr()
    assert main([*explain, "--out", str(tmp_path / "none")]) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.endswith("for backbone toy_cnn, not efficientnet_lite0; give it with --backbone toy_cnn")
    assert main(["import"]) == 2


# --- checkpoints that the authors' program wrote


def small_vit() -> models.VisionTransformer:
    return models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=1000
    )


SMALL_VIT = BackboneSpec(
    "vit_b_16",
    small_vit,
    Preprocessing(256, 224),
    tuple(map(str, range(1000))),
    masking="vit",
    tokens=TokenLayout(prefix=1, grid=(14, 14)),
)
RECORDED = {  # backbone, method, and weights where the file has none
    "resnet18": ("resnet18", "ttame", "random"),
    "shufflenet_lightning212": ("shufflenet_v2_x0_5", "ttame", ""),
    "lcam": ("shufflenet_v2_x0_5", "lcam_img", ""),
    "vit": ("vit_b_16", "ttame", ""),
}


@pytest.mark.parametrize(
    ("case", "imported"), [*((case, True) for case in RECORDED), ("shufflenet_lightning212", False), ("vit", False)]
)
def test_recorded_maps_and_logits(
    case: str, imported: bool, shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, method, weights = RECORDED[case]
    if case == "vit":
        monkeypatch.setattr(tame.checkpoints.convert, "find_spec", lambda name: SMALL_VIT)
        monkeypatch.setattr(tame.explainers.setup, "spec_of", lambda common: SMALL_VIT)
    file = shared_dir / "reference" / "authors_program" / f"checkpoint_{case}.ckpt"
    expected = torch.load(file.with_name(f"checkpoint_{case}_expected.pt"), weights_only=True)
    checkpoint = bring_in(file, weights="random", out=str(tmp_path)) if imported else file
    classifier, explainer, _ = use(checkpoint, backbone, method, weights=weights)
    assert isinstance(explainer, LearnedExplainer)
    images = expected["images"]
    if read_metadata(checkpoint)["hyper_parameters"]["train_method"] != "raw_normalize":
        images = images * classifier.std + classifier.mean
    torch.testing.assert_close(classifier.logits(images), expected["logits"], atol=1e-4, rtol=0)
    assert torch.equal(classifier.logits(images).argmax(1), expected["model_truth"])
    asked = {"model_truth": expected["model_truth"], "other": torch.as_tensor(expected["other_classes"])}
    for name, targets in asked.items():
        maps = explainer.explain(images, targets)
        torch.testing.assert_close(
            min_max(maps), expected[f"maps_{name}_minmax"].squeeze(1), atol=1e-4, rtol=0, msg=lambda m: f"{case}: {m}"
        )
    if imported and case == "shufflenet_lightning212":
        given = load_backbone(backbone, "random")
        changed = {key for key, value in given.module.state_dict().items() if "running" in key}
        recorded = {key for key in expected["changed_backbone_tensors"] if "num_batches" not in key}
        assert (changed, len(expected["changed_backbone_tensors"])) == (recorded, 168)
