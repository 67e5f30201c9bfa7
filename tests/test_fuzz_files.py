"""Random damage to checkpoints, spec files and the folders of runs ends in one line that names the file."""

import copy
import json

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from finished_runs import HALF, make_run
from fuzzing import answered, tries
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import find_spec
from tame.checkpoints.classifier import checkpoint_spec
from tame.checkpoints.convert import convert_checkpoint
from tame.checkpoints.native import load_attention, own_backbone, read_metadata, save_attention
from tame.health.runs import check_run

VALUES = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=5) | st.just("9" * 5000)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)


def changed(content, changes, end):
    """Return bytes with some of them replaced, and maybe an end that is missing."""
    found = bytearray(content)
    for position, value in changes:
        found[position % len(found)] = value
    return bytes(found[: None if end is None else end % len(found)])


@st.composite
def replaced(draw, content):
    """Return nested JSON values of which some are others, or gone."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place, keys = content, []
        while isinstance(place, dict) and place and (not keys or draw(st.booleans())):
            keys.append(draw(st.sampled_from(sorted(place))))
            place = place[keys[-1]]
        if not keys:
            break
        above = content
        for key in keys[:-1]:
            above = above[key]
        if draw(st.booleans()):
            del above[keys[-1]]
        else:
            above[keys[-1]] = draw(JSON)
    return content


@pytest.fixture
def mechanism(toy_classifier, tmp_path):
    """A classifier, and the bytes of a checkpoint for it."""
    classifier = toy_classifier()
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    save_attention(tmp_path / "whole", model, {"attention": "ttame", "output_size": "largest", "preset": "tame"})
    return classifier, (tmp_path / "whole" / "attention.safetensors").read_bytes(), read_metadata(tmp_path / "whole")


def read_checkpoint(path, classifier):
    """Read all that is read of a checkpoint; return the mechanism, None if it was refused."""
    answered(read_metadata, path)
    answered(own_backbone, path)
    answered(checkpoint_spec, path, classifier.spec)
    list(check_run(path))
    return answered(load_attention, path, classifier)


@tries(120)
@given(st.data())
def test_any_metadata_are_read_or_refused(mechanism, tmp_path, data):
    classifier, whole, metadata = mechanism
    content = data.draw(replaced(metadata) | JSON)
    text = data.draw(st.just(json.dumps(content)) | st.text(max_size=20))
    file = tmp_path / "attention.safetensors"
    file.write_bytes(save(load(whole), {"tame": text}))
    loaded = read_checkpoint(tmp_path, classifier)
    if loaded is not None:
        same = ("backbone", "num_classes", "layers", "weights_sha256", "format")
        assert {name: content[name] for name in same} == {name: metadata[name] for name in same}


@tries(150)
@given(CHANGES, st.none() | st.integers(0, 10**6))
def test_a_damaged_file_of_tensors_is_read_or_refused(mechanism, tmp_path, changes, end):
    classifier, whole, _ = mechanism
    (tmp_path / "attention.safetensors").write_bytes(changed(whole, changes, end))
    loaded = read_checkpoint(tmp_path, classifier)
    if loaded is not None:
        assert all(value.isfinite().all() for value in loaded.state_dict().values())


TENSORS = st.just(torch.zeros(5, 16, 1, 1)) | st.just(torch.zeros(5)) | st.just(torch.full((5, 16, 1, 1), torch.nan))
TENSORS |= st.just(torch.zeros(5, 16, 1, 1, dtype=torch.int64)) | st.integers() | st.none() | st.text(max_size=3)
PARTS = ["attnM.op.weight", "attnM.op.bias", "module.op.weight", "convs.0.weight", "bns.0.weight", "fuser.weight", "x"]
PARTS += ["generic.attn_mech.fuser.weight", "generic.body.stage1.0.weight", "fuser.bias"]
AUTHORS = st.fixed_dictionaries(
    {"state_dict": st.dictionaries(st.sampled_from(PARTS), TENSORS, max_size=5) | TENSORS},
    optional={
        "hyper_parameters": st.dictionaries(
            st.sampled_from(["model_name", "layers", "attention_version", "epochs"]), JSON, max_size=4
        )
        | JSON,
        "pytorch-lightning_version": st.text(max_size=3),
        "epoch": JSON,
    },
)


@tries(80)
@given(AUTHORS | JSON | st.dictionaries(st.integers(), TENSORS, max_size=2))
def test_any_file_of_the_authors_programs_is_read_or_refused(mechanism, tmp_path, content):
    classifier, _, _ = mechanism
    torch.save(content, file := tmp_path / "snapshot.pt")
    loaded = read_checkpoint(file, classifier)
    answered(convert_checkpoint, file)
    if loaded is not None:
        assert all(value.isfinite().all() for value in loaded.state_dict().values())


KEYS = [
    "builder",
    "name",
    "arguments",
    "num_classes",
    "class_names",
    "input_size",
    "resize",
    "interpolation",
    "mean",
    "std",
]
KEYS += ["layers", "cam_layer", "masking", "tokens", "output", "score", "weights", "other"]
SIZES = st.integers(-2, 64) | st.lists(st.integers(-1, 40), max_size=3) | st.just("32x40") | st.just(10**9)
TOKENS = st.fixed_dictionaries({}, optional={"prefix": st.integers(-1, 2), "grid": SIZES, "gate": st.booleans()})


@tries(120)
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON | SIZES | TOKENS, max_size=5),
    st.sampled_from(["toy_cnn", "os:sep", "sys:exit", "json:loads", "nowhere", ":", "torch.nn:Module", None]),
    st.sampled_from([".yaml", ".json"]),
)
def test_any_spec_file_is_read_or_refused(toy_backbone, tmp_path, content, builder, suffix):
    file = tmp_path / f"mine{suffix}"
    file.write_text(json.dumps(content if builder is None else content | {"builder": builder}))  # JSON is YAML
    spec = answered(find_spec, file)
    if spec is not None:
        assert spec.num_classes >= 1 and all(1 <= side <= 8192 for side in spec.preprocessing.size)


@tries(80)
@given(st.binary(max_size=40), st.sampled_from([".yaml", ".json", ".toml"]))
def test_any_spec_file_of_bytes_is_read_or_refused(tmp_path, content, suffix):
    (tmp_path / f"mine{suffix}").write_bytes(content)
    answered(find_spec, tmp_path / f"mine{suffix}")


@tries(100)
@given(st.sampled_from(["rows.csv", "summary.json"]), CHANGES, st.none() | st.integers(0, 10**6))
def test_a_damaged_evaluation_is_diagnosed(tmp_path, name, changes, end):
    folder = make_run(tmp_path / "run", "gradcam", HALF[:4])
    whole = (folder / name).read_bytes()
    content = changed(whole, changes, end)
    (folder / name).write_bytes(content)
    found = list(check_run(folder))
    assert found and all(each.state in ("ok", "note", "problem") and each.found for each in found)
    if end is not None and end % len(whole) < len(whole) // 2:
        assert [each.state for each in found] == ["problem"]


@tries(100)
@given(st.data())
def test_a_summary_or_manifest_of_any_values_is_diagnosed(tmp_path, data):
    folder = make_run(tmp_path / "run", "gradcam", HALF[:4])
    file = folder / "summary.json"
    file.write_text(json.dumps(data.draw(replaced(json.loads(file.read_text())) | JSON)))
    assert list(check_run(folder))
    (tmp_path / "explained").mkdir(exist_ok=True)
    np.save(tmp_path / "explained" / "a.npy", np.zeros((2, 2), np.float32))
    manifest = [{"map": "a.npy", "overlay": "a.npy"}, data.draw(JSON)]
    (tmp_path / "explained" / "manifest.json").write_text(json.dumps(data.draw(st.just(manifest) | JSON)))
    assert list(check_run(tmp_path / "explained"))
