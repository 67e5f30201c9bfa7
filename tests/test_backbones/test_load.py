from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import VisionTransformer

from tame.backbones import BACKBONES, load_backbone
from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

CNN = TOY_SPECS["cnn"]


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Weights that differ from any random initialisation of the builder."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in ToyCNN().state_dict().items()}


def assert_loaded(path: Path, state: Mapping[str, Tensor], atol: float = 0) -> None:
    classifier = load_backbone(CNN, str(path))
    assert classifier.weights == str(path)
    own = classifier.module.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(own[name], value, atol=atol, rtol=0)
        assert own[name].dtype == value.dtype


def test_random_weights_follow_the_seed() -> None:
    hashes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        hashes.append(load_backbone(CNN, "random").weights_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_without_published_weights_the_default_is_random() -> None:
    assert load_backbone(CNN).weights == "random"


def save_pickled(state: dict[str, Tensor], path: Path) -> None:
    torch.save(state, path)


def save_prefixed(state: dict[str, Tensor], path: Path) -> None:
    torch.save({f"module.{key}": value for key, value in state.items()}, path)


def save_wrapped(state: dict[str, Tensor], path: Path) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)


def save_without_counters(state: dict[str, Tensor], path: Path) -> None:
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("weights.pth", save_pickled),
        ("weights.pt", save_prefixed),
        ("weights.pth", save_wrapped),
        ("weights.pth", save_without_counters),
        ("weights.safetensors", save_file),
    ],
)
def test_a_file_gives_its_weights(
    tmp_path: Path, state: dict[str, Tensor], name: str, save: Callable[[dict[str, Tensor], Path], None]
) -> None:
    save(state, tmp_path / name)
    assert_loaded(tmp_path / name, state)


@pytest.mark.parametrize(("name", "save"), [("weights.pth", save_pickled), ("weights.safetensors", save_file)])
def test_float16_files_become_float32_weights(
    tmp_path: Path, state: dict[str, Tensor], name: str, save: Callable[[dict[str, Tensor], Path], None]
) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save(half, tmp_path / name)
    assert_loaded(tmp_path / name, state, atol=2e-3)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["head.weight"] = torch.zeros(7, 16)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"do not match ToyCNN: head.weight is \(7, 16\), expected \(5, 16\)$"):
        load_backbone(CNN, str(tmp_path / "other.pth"))


def test_missing_and_unexpected_keys_are_named_and_counted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    renamed = {key.replace("stage1", "layer1"): value for key, value in state.items()}
    torch.save(renamed, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"missing stage1.0.weight; missing stage1.0.bias; .* and \d+ more"):
        load_backbone(CNN, str(tmp_path / "other.pth"))
    del state["head.bias"]
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"missing head.bias; unexpected extra$"):
        load_backbone(CNN, str(tmp_path / "other.pth"))


class Malicious:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_file_that_would_run_code_is_refused_without_running_it(
    tmp_path: Path, writer: Callable[[object, Path], None]
) -> None:
    trace = tmp_path / "was here"
    writer({"head.bias": Malicious(trace)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="contains no weights that can be loaded safely"):
        load_backbone(CNN, str(tmp_path / "weights.pth"))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02.", b"PK\x03\x04 cut off", bytes(range(256))])
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} contains no weights that can be loaded safely"):
        load_backbone(CNN, str(tmp_path / name))


@pytest.mark.parametrize(
    ("value", "given"),
    [(torch.zeros(3), "Tensor"), ({"epoch": 3}, "dict"), ([1, 2], "list"), ({3: torch.zeros(1)}, "dict")],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, value: object, given: str) -> None:
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(InputError, match=rf"expected a state_dict \(names and tensors\) in .*other.pth, got {given}"):
        load_backbone(CNN, str(tmp_path / "other.pth"))


def test_weights_that_are_neither_name_nor_file_list_the_known_names() -> None:
    spec = replace(CNN, weights={"first": dict, "second": dict})
    with pytest.raises(
        InputError, match="no weights 'third' for toy_cnn: expected a file or one of first, second, random"
    ):
        load_backbone(spec, "third")


def test_an_unknown_backbone_shows_a_similar_name() -> None:
    with pytest.raises(InputError, match="unknown backbone 'resnet5'; did you mean 'resnet50'"):
        load_backbone("resnet5")


def test_the_first_published_weights_are_the_default(state: dict[str, Tensor]) -> None:
    spec = replace(CNN, weights={"first": lambda: state, "second": dict})
    classifier = load_backbone(spec)
    assert classifier.weights == "first"
    torch.testing.assert_close(classifier.module.state_dict()["head.bias"], state["head.bias"])


def test_published_weights_bring_their_own_preprocessing(state: dict[str, Tensor]) -> None:
    other = Preprocessing(resize=40, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    spec = replace(CNN, weights={"a": lambda: state, "b": lambda: state}, weights_preprocessing={"b": other})
    assert load_backbone(spec, "a").spec.preprocessing == CNN.preprocessing
    classifier = load_backbone(spec, "b")
    assert classifier.spec.preprocessing == other
    torch.testing.assert_close(classifier.normalise(torch.ones(1, 3, 1, 1)), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("paper", ("stage1", "stage2", "stage3")),
        ("stage2", ("stage2",)),
        (" stage1, stage3 ", ("stage1", "stage3")),
        (["stage3"], ("stage3",)),
    ],
)
def test_layers_are_a_layer_set_or_module_names(layers: str | list[str], expected: tuple[str, ...]) -> None:
    assert load_backbone(CNN, "random", layers).layers == expected


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("layer_set", ["proposed", "paper"])
def test_an_unlisted_layer_set_is_proposed(kind: str, layer_set: str) -> None:
    spec = TOY_SPECS[kind]
    classifier = load_backbone(replace(spec, layers={}), "random", layer_set)
    assert classifier.layers == spec.layers["proposed"]


def test_an_empty_list_of_layers_is_refused() -> None:
    with pytest.raises(InputError, match="expected at least one layer of toy_cnn"):
        load_backbone(CNN, "random", ",")


def test_every_registered_name_is_its_specs_name() -> None:
    for name in BACKBONES:
        spec = BACKBONES.get(name)
        assert spec.name == name
        assert spec.weights and spec.class_names
        assert set(spec.weights_preprocessing) <= set(spec.weights)


@pytest.mark.shared
def test_a_real_transformer_loads_from_a_float16_file(shared_dir: Path) -> None:
    spec = BackboneSpec(
        name="deit_tiny",
        build=lambda: VisionTransformer(224, 16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768),
        preprocessing=Preprocessing(256, 224, "bicubic"),
        class_names=BACKBONES.get("vit_b_16").class_names,
        masking="vit",
        tokens=TokenLayout(prefix=1, grid=(14, 14)),
    )
    classifier = load_backbone(spec, str(shared_dir / "data" / "weights" / "deit_tiny_patch16_224_torchvision.pth"))
    assert classifier.layers == tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in (9, 10, 11))
    assert classifier.channels == (192, 192, 192)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
