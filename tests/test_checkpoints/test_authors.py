"""Files of the authors' programs: what is recognised, what is refused, and that nothing in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from authors_files import lightning, mechanism_of, snapshot
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.authors import is_authors_file, modules_of_nodes, read_authors_file
from tame.checkpoints.native import load_attention, read_metadata
from tame.classifier import FrozenClassifier
from tame.utils.checks import InputError
from toys import TOY_SPECS

Make = Callable[..., FrozenClassifier]
STAGES = ("stage1", "stage2", "stage3")


@pytest.fixture
def model(toy_classifier: Make) -> ExplainedClassifier:
    classifier = toy_classifier()
    return ExplainedClassifier(classifier, mechanism_of(classifier))


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


# --- what is recognised


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda key: f"module.{key}",
        lambda key: key.replace("attn_mech.", "attn_mech.module.").replace(".body.", ".body.module."),
    ],
    ids=["plain", "module", "inside"],
)
def test_lightning_file(model: ExplainedClassifier, tmp_path: Path, rename: Callable[[str], str]) -> None:
    file = lightning(tmp_path / "any.name", model, rename=rename)
    checkpoint = read_authors_file(file)
    assert (checkpoint.program, checkpoint.attention, checkpoint.backbone) == ("T-TAME", "ttame", "toy_cnn")
    assert (checkpoint.layers, checkpoint.channels, checkpoint.num_classes) == (STAGES, (8, 12, 16), 5)
    assert not checkpoint.differences(model.classifier)
    module = model.classifier.module.state_dict()
    assert checkpoint.body.keys() == {key for key in module if not key.endswith("num_batches_tracked")}
    assert same(load_attention(file, model.classifier), model.attention)
    metadata = read_metadata(file)
    assert (metadata["epoch"], metadata["epochs"], metadata["output_size"]) == (7, 8, "first")
    assert metadata["hyper_parameters"]["attention_version"] == "TAME"


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("TAME", "ttame"),
        ("TTAME", "ttame"),
        ("Noskipconnection", "ttame-no-skip"),
        ("NoskipNobatchnorm", "ttame-no-skip-no-norm"),
        ("Sigmoidinfeaturebranch", "ttame-sigmoid"),
        ("L-CAM", "lcam-img"),
        ("lcam", "lcam-img"),
    ],
)
def test_versions(toy_classifier: Make, tmp_path: Path, version: str, kind: str) -> None:
    classifier = toy_classifier(layers=["stage3"])
    attention = mechanism_of(classifier, kind)
    file = lightning(tmp_path / "a.ckpt", ExplainedClassifier(classifier, attention), version)
    assert read_authors_file(file).attention == kind
    assert same(load_attention(file, classifier), attention)


@pytest.mark.parametrize("kind", ["ttame", "ttame-no-skip", "ttame-no-skip-no-norm"])
@pytest.mark.parametrize("prefix", ["", "attn_mech.", "module.attn_mech.", "module."])
def test_tame_snapshot(toy_classifier: Make, tmp_path: Path, kind: str, prefix: str) -> None:
    classifier = toy_classifier()
    attention = mechanism_of(classifier, kind)
    file = snapshot(tmp_path / "a.pt", attention.state_dict(), prefix, args=argparse.Namespace(lr=1e-3))
    checkpoint = read_authors_file(file)
    assert (checkpoint.program, checkpoint.attention, checkpoint.backbone, checkpoint.layers) == ("TAME", kind, "", ())
    assert checkpoint.layers_of(TOY_SPECS["cnn"]) == list(STAGES)
    assert same(load_attention(file, classifier), attention)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
def test_lcam_snapshot(toy_classifier: Make, tmp_path: Path, zipped: bool) -> None:
    classifier = toy_classifier(layers=["stage3"])
    attention = mechanism_of(classifier, "lcam-img")
    state = {f"module.attnM.{key}": value for key, value in attention.state_dict().items()}
    state |= {f"module.features.{key}": value for key, value in classifier.module.state_dict().items()}
    file = tmp_path / "a.pt"
    torch.save({"state_dict": state, "optimizer": {}}, file, _use_new_zipfile_serialization=zipped)
    checkpoint = read_authors_file(file)
    assert (checkpoint.program, checkpoint.attention, checkpoint.channels) == ("L-CAM", "lcam-img", (16,))
    assert checkpoint.layers_of(TOY_SPECS["cnn"]) == ["stage3"]
    assert not checkpoint.body
    assert same(load_attention(file, classifier), attention)


@pytest.mark.parametrize("version", ["TAME", "TTAME"])
def test_transformer(toy_classifier: Make, tmp_path: Path, version: str) -> None:
    plain = toy_classifier("vit")
    spec = replace(plain.spec, tokens=replace(plain.spec.tokens, gate=version == "TTAME"))
    classifier = FrozenClassifier(spec, plain.module, plain.layers)
    attention = mechanism_of(classifier)
    nodes = [layer.removesuffix("_1") for layer in classifier.layers]
    file = lightning(tmp_path / "a.ckpt", ExplainedClassifier(classifier, attention), version, layers=nodes)
    checkpoint = read_authors_file(file)
    assert checkpoint.gate is (version == "TTAME")
    assert tuple(checkpoint.layers_of(spec)) == classifier.layers
    assert same(load_attention(file, classifier), attention)
    other = FrozenClassifier(
        replace(spec, tokens=replace(spec.tokens, gate=version != "TTAME")), plain.module, plain.layers
    )
    with pytest.raises(InputError, match=rf"needs tokens of toy_vit with gate={version == 'TTAME'}, got "):
        load_attention(file, other)


def test_names_of_nodes_mean_what_the_tracer_means(toy_classifier: Make) -> None:
    module = toy_classifier("vit").module
    block = "encoder.layers.encoder_layer_1"
    images = torch.rand(1, 3, 32, 32)
    for node, layer in {f"{block}.ln": f"{block}.ln_1", f"{block}.ln_1": f"{block}.ln_2", block: block}.items():
        assert modules_of_nodes(module, [node]) == [layer]
        seen: list[Tensor] = []
        handle = module.get_submodule(layer).register_forward_hook(lambda *given, seen=seen: seen.append(given[2]))
        expected = create_feature_extractor(module, [node])(images)[node]
        module(images)
        handle.remove()
        assert torch.equal(seen[-1], expected)


def test_a_node_before_the_last_call_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.relu(self.relu(inputs) - 1)

    assert modules_of_nodes(Twice(), ["relu_1"]) == ["relu"]
    with pytest.raises(InputError, match="the layer relu of the file is not the last call of the module relu"):
        modules_of_nodes(Twice(), ["relu"])


def test_our_own_checkpoints_and_other_things_are_not_the_authors(tmp_path: Path) -> None:
    start = (128).to_bytes(8, "little") + b"{}"  # a header of 128 bytes begins as a pickle does
    (tmp_path / "a.safetensors").write_bytes(start)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("PKPKPKPKPKPK")
    assert not [path for path in (tmp_path, *tmp_path.iterdir(), tmp_path / "missing") if is_authors_file(path)]


# --- nothing runs


class Creates:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_file_that_would_run_code_is_refused_without_running(form: str, tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "a.ckpt"
    content = {"state_dict": {"fuser.weight": torch.zeros(2, 2, 1, 1)}, "extra": Creates(made)}
    if form == "bare":
        file.write_bytes(pickle.dumps({"extra": Creates(made)}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    pickle.loads(pickle.dumps(Creates(made)))  # noqa: S301 - to show that it would
    made.rmdir()
    with pytest.raises(InputError) as error:
        read_metadata(file)
    assert not made.exists()
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert "a.ckpt was refused without executing code from it: " in str(error.value)
    assert f"it would call {os.mkdir.__module__}.mkdir, and a checkpoint contains only" in str(error.value)


# --- what is refused


@pytest.mark.parametrize("keep", [9, 300, -30])
def test_a_broken_file(model: ExplainedClassifier, tmp_path: Path, keep: int) -> None:
    file = lightning(tmp_path / "a.ckpt", model)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.ckpt cannot be read as a checkpoint: ") as error:
        read_authors_file(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"expected a checkpoint \(a dict with a state_dict\) in .*a\.pt, got list"),
        (
            {"model": 1, "epoch": 2},
            r"\(a dict with a state_dict\) in .*a\.pt, got a dict with model, epoch",
        ),
        ({"state_dict": {}}, r"expected one attention mechanism in .*a\.pt \(.*\), got no tensors"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, r"expected one attention mechanism .*, got conv1\.weight"),
        (
            {"state_dict": {"a.fuser.weight": torch.zeros(1), "b.fuser.weight": torch.zeros(1)}},
            r"got a\.fuser\.weight, b\.fuser\.weight",
        ),
        (
            {"state_dict": {"op.weight": torch.zeros(5, 3)}},
            r"op\.weight in .* is \(5, 3\): expected the weights of a co",
        ),
    ],
)
def test_other_contents(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        read_authors_file(tmp_path / "a.pt")


def test_an_unknown_version(model: ExplainedClassifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown attention_version 'V9' in .*; known: tame, ttame, noskip"):
        read_authors_file(lightning(tmp_path / "a.ckpt", model, "V9"))


@pytest.mark.parametrize("missing", ["convs.1.bias", "bns.2.running_var"])
def test_a_mechanism_with_a_part_missing(model: ExplainedClassifier, tmp_path: Path, missing: str) -> None:
    state = {key: value for key, value in model.attention.state_dict().items() if key != missing}
    file = snapshot(tmp_path / "a.pt", state)
    with pytest.raises(InputError, match=rf"attention mechanism in .*a\.pt do not match TAME: missing {missing}$"):
        load_attention(file, model.classifier)


def test_a_kernel_of_another_size(toy_classifier: Make, tmp_path: Path) -> None:
    file = snapshot(tmp_path / "a.pt", {"op.weight": torch.zeros(5, 16, 7, 7), "op.bias": torch.zeros(5)}, "attnM.")
    with pytest.raises(InputError, match=r"op\.weight is \(5, 16, 7, 7\), expected \(5, 16, 1, 1\)"):
        load_attention(file, toy_classifier(layers=["stage3"]))


def test_another_classifier(model: ExplainedClassifier, toy_classifier: Make, tmp_path: Path) -> None:
    file = lightning(tmp_path / "a.ckpt", model)
    cases = {
        "was trained for backbone toy_cnn, not toy_vit: use it with toy_cnn": toy_classifier("vit"),
        "was trained for layers stage1, stage2, stage3, not stage2, stage3": toy_classifier(layers=STAGES[1:]),
        r"with other weights of toy_cnn than random \(\d+ tensors differ, the most by .*\): give no weights": (
            toy_classifier(seed=1)
        ),
    }
    for message, classifier in cases.items():
        with pytest.raises(InputError, match=message):
            load_attention(file, classifier)


def test_other_classes_and_channels(model: ExplainedClassifier, toy_classifier: Make, tmp_path: Path) -> None:
    file = snapshot(tmp_path / "a.pt", model.attention.state_dict())
    with pytest.raises(
        InputError, match="features of 8, 12, 16 channels, and stage1, stage2 of toy_cnn have 8, 12: give"
    ):
        load_attention(file, toy_classifier(layers=STAGES[:2]))
    spec = replace(TOY_SPECS["cnn"], class_names=("a", "b", "c"))
    classifier = FrozenClassifier(spec, type(model.classifier.module)(3), STAGES)
    with pytest.raises(InputError, match="was trained for 5 classes, not 3"):
        load_attention(file, classifier)


@pytest.mark.parametrize("file_layers", [None, ["stage1", "nonsense"]])
def test_layers_that_only_the_user_knows(model: ExplainedClassifier, tmp_path: Path, file_layers: Any) -> None:
    file = lightning(tmp_path / "a.ckpt", model, layers=file_layers)
    assert same(load_attention(file, model.classifier), model.attention)


def test_layers_that_nobody_says(model: ExplainedClassifier, toy_classifier: Make, tmp_path: Path) -> None:
    checkpoint = read_authors_file(snapshot(tmp_path / "a.pt", model.attention.state_dict()))
    with pytest.raises(InputError, match=r"toy_cnn has no released layer set: give layers, 3 of 8, 12, 16 channels"):
        checkpoint.layers_of(replace(TOY_SPECS["cnn"], layers={}))
    lcam = mechanism_of(toy_classifier(layers=["stage3"]), "lcam-img")
    checkpoint = read_authors_file(snapshot(tmp_path / "b.pt", lcam.state_dict(), "attnM."))
    with pytest.raises(InputError, match=r"b\.pt does not name its layer: give layers, either stage3 or stage2"):
        checkpoint.layers_of(replace(TOY_SPECS["cnn"], cam_layer="stage2"))
