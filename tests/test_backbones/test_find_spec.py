"""Specs of any classifier by name: torchvision, timm, a function of the user, a spec file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tame
from tame.backbones import find_spec, load_backbone
from tame.classifier import Preprocessing, TokenLayout
from tame.classifier.probing.overrides import SpecOverrides
from tame.utils.checks import InputError
from toys import ToyCNN, toy_vit

FUNCTIONS = """
import torch
from toys import ToyCNN, toy_vit

def cnn(classes=5):
    torch.manual_seed(3)
    return ToyCNN(classes)

def vit():
    return toy_vit()

def broken():
    return "no network"
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of builders in the working directory, a new one for each test."""
    name = f"models_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


SMALL = SpecOverrides(input_size=(32, 32))


def test_a_function_brings_its_own_weights(functions: str) -> None:
    classifier = load_backbone(f"{functions}:cnn", overrides=SMALL)
    torch.manual_seed(3)
    assert torch.equal(classifier.module.get_parameter("head.weight"), ToyCNN().head.weight)
    assert classifier.weights == "own"
    spec = classifier.spec
    assert spec.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert (spec.tokens, spec.masking, spec.preprocessing.resize) == (None, "cnn", 37)
    assert classifier.layers == ("stage1", "stage2", "stage3")


@pytest.mark.parametrize("form", ["{}.py:cnn", "./{}.py:cnn", "{folder}/{}.py:cnn"])
def test_a_function_of_a_file_is_known_by_the_name_of_the_file(tmp_path: Path, functions: str, form: str) -> None:
    classifier = load_backbone(form.format(functions, folder=tmp_path), overrides=SMALL)
    assert classifier.spec.name == f"{functions}.py:cnn"
    assert classifier.weights_hash == load_backbone(f"{functions}:cnn", overrides=SMALL).weights_hash


def test_a_changed_file_is_read_again(tmp_path: Path, functions: str) -> None:
    file = tmp_path / f"{functions}.py"
    assert find_spec(f"{file}:cnn", SMALL).num_classes == 5
    file.write_text(FUNCTIONS.replace("classes=5", "classes=4"))
    os.utime(file, ns=(1, 1))
    assert find_spec(f"{file}:cnn", SMALL).num_classes == 4


def test_the_file_of_a_builder_is_beside_its_spec_file(
    tmp_path: Path, functions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine.toml", f'builder = "{functions}.py:cnn"\ninput_size = 32\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_backbone(file).spec.num_classes == 5


def test_a_transformer_is_recognised(functions: str) -> None:
    spec = find_spec(f"{functions}:vit", SMALL)
    assert (spec.tokens, spec.masking) == (TokenLayout(1, (4, 4)), "vit")
    assert load_backbone(spec).layers == tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in range(3))


def test_the_network_is_built_once_to_infer_its_spec(functions: str) -> None:
    assert find_spec(f"{functions}:cnn", SMALL) is find_spec(f"{functions}:cnn", SMALL)


@pytest.mark.parametrize(
    ("backbone", "given", "message"),
    [
        ("{}:broken", SMALL, "expected .*:broken to return an nn.Module, got str"),
        ("{}:missing", SMALL, "expected package.module:function as the backbone, cannot import '.*:missing'"),
        ("nowhere:cnn", SMALL, "cannot import 'nowhere:cnn'"),
        ("toys:BackboneSpec", SMALL, "toys:BackboneSpec could not be built: TypeError: .* missing 4 required"),
        ("{}:vit", SpecOverrides(), r"expected a network that takes images of shape .*; check the input size"),
        ("{}:cnn", SpecOverrides(class_names=("a", "b"), input_size=(32, 32)), None),
    ],
)
def test_unusable_functions_are_refused(
    functions: str, backbone: str, given: SpecOverrides, message: str | None
) -> None:
    if message is None:  # a wrong number of classes is detected when the network is frozen
        with pytest.raises(InputError, match=r"expected logits of shape \(B, 2\)"):
            load_backbone(backbone.format(functions), overrides=given)
    else:
        with pytest.raises(InputError, match=message):
            find_spec(backbone.format(functions), given)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_spec_file_sets_all_properties(tmp_path: Path, functions: str) -> None:
    network = ToyCNN(3)
    save_file(network.state_dict(), tmp_path / "trained.safetensors")
    (tmp_path / "names.txt").write_text("benign\nmalignant\nunclear\n")
    file = write(
        tmp_path / "tumours.toml",
        f"""
        builder = "{functions}:cnn"
        weights = "trained.safetensors"
        class_names = "names.txt"
        input_size = 32
        resize = 40
        interpolation = "bicubic"
        mean = [0.1, 0.2, 0.3]
        std = [0.5, 0.5, 0.5]
        layers = ["stage2", "stage3"]
        cam_layer = "stage3"
        score = "sigmoid"
        [arguments]
        classes = 3
        """,
    )
    classifier = load_backbone(file)
    assert torch.equal(classifier.module.get_parameter("head.weight"), network.head.weight)
    spec = classifier.spec
    assert spec.name == "tumours"
    assert spec.class_names == ("benign", "malignant", "unclear")
    assert spec.preprocessing == Preprocessing(40, 32, "bicubic", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (classifier.layers, spec.cam_layer, spec.score) == (("stage2", "stage3"), "stage3", "sigmoid")
    assert classifier.weights == str(tmp_path / "trained.safetensors")
    random = load_backbone(file, "random")
    assert not torch.equal(random.module.get_parameter("head.weight"), network.head.weight)
    assert load_backbone(file, overrides=SpecOverrides(mean=(0.5, 0.5, 0.5))).spec.preprocessing.mean == (0.5, 0.5, 0.5)


def test_yaml_and_tokens(tmp_path: Path, functions: str) -> None:
    file = write(
        tmp_path / "my.yaml",
        f"builder: {functions}:vit\nname: mine\ninput_size: [32, 32]\n"
        "tokens: {prefix: 1, grid: [4, 4], gate: true}\n",
    )
    spec = find_spec(file)
    assert (spec.name, spec.tokens) == ("mine", TokenLayout(1, (4, 4), gate=True))


def test_a_spec_file_is_read_again_when_it_changes(tmp_path: Path, functions: str) -> None:
    file = tmp_path / "my.json"
    file.write_text(f'{{"builder": "{functions}:cnn", "input_size": 32}}')
    assert find_spec(str(file)).masking == "cnn"
    file.write_text(f'{{"builder": "{functions}:cnn", "input_size": 32, "masking": "vit"}}')
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert find_spec(str(file)).masking == "vit"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("builder = 3", r"expected the key builder in .*my.toml"),
        ('builder = "resnet18"\ncolour = "red"', r"unknown keys colour in .*my.toml; known: arguments, builder"),
        ('builder = "resnet18"\narguments = 3', "expected the arguments of the builder by name in .*, got 3"),
        ('builder = "resnet18"\nnum_classes = "many"', "cannot use .*my.toml: invalid literal for int"),
        ('builder = "resnet18"\ntokens = {prefix = 1}', "cannot use .*my.toml: .*'grid'"),
        ("builder = ", "cannot read .*my.toml: Invalid value"),
        ('builder = "efficientnet_lite0"\nnum_classes = 3', "expected 1000 classes and no .* for efficientnet_lite0"),
        ('builder = "resnt18"', "unknown backbone 'resnt18'; did you mean 'resnet18'"),
    ],
)
def test_unusable_spec_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_spec(write(tmp_path / "my.toml", text))


def test_a_missing_spec_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"no spec file .*nowhere.toml: No such file"):
        find_spec("nowhere.toml")


def test_torchvision_with_other_classes_has_no_published_weights() -> None:
    given = SpecOverrides(num_classes=3, input_size=(64, 64))
    with pytest.raises(InputError, match="no weights are published for resnet18 with 3 classes: choose a file"):
        load_backbone("resnet18", overrides=given)
    classifier = load_backbone("resnet18", "random", overrides=given)
    assert classifier(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3)
    assert classifier.spec.preprocessing.resize == 73  # 256 / 224 of it


def test_a_torchvision_transformer_of_another_size() -> None:
    assert find_spec("vit_b_32", SpecOverrides(input_size=(64, 64))).tokens == TokenLayout(1, (2, 2))
    with pytest.raises(InputError, match="expected a square input of whole 32-pixel patches for vit_b_32, got 64x96"):
        find_spec("vit_b_32", SpecOverrides(input_size=(64, 96)))


def test_an_other_size_keeps_published_weights() -> None:
    spec = find_spec("resnet18", SpecOverrides(input_size=(320, 320)))
    assert "imagenet1k_v1" in spec.weights
    assert not spec.weights_preprocessing  # which would restore 224 pixels


def test_timm_by_name() -> None:
    pytest.importorskip("timm")
    classifier = load_backbone("timm:test_vit", "random")
    spec = classifier.spec
    assert (spec.name, spec.num_classes, spec.class_names[0]) == ("timm:test_vit", 1000, "tench")
    assert spec.preprocessing == Preprocessing(
        resize=168, crop=160, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    assert spec.tokens is not None and spec.tokens.grid == (10, 10)
    assert list(spec.weights) == ["pretrained"]


def test_timm_with_other_channels_classes_and_size() -> None:
    pytest.importorskip("timm")
    given = SpecOverrides(class_names=("a", "b", "c"), input_size=(64, 96), mean=(0.5,), std=(0.25,))
    classifier = load_backbone("timm:test_vit", "random", overrides=given)
    assert classifier(torch.rand(2, 1, 64, 96)).logits.shape == (2, 3)
    assert classifier.spec.tokens is not None and classifier.spec.tokens.grid == (4, 6)
    with pytest.raises(InputError, match="no weights are published for timm:test_vit with 3 classes"):
        load_backbone("timm:test_vit", overrides=given)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("timm:resnt18", "timm has no classifier 'resnt18'"),
        ("timm:vit_small_patch14_reg4_dinov2", "is published without classes: set the number of classes and .*weights"),
    ],
)
def test_what_timm_does_not_have_is_refused(backbone: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(InputError, match=message):
        find_spec(backbone)


def test_weights_that_cannot_be_downloaded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise OSError("no network")
        network: nn.Module = create(name, **options)
        return network

    monkeypatch.setattr(timm, "create_model", offline)
    message = r"the weights of timm:test_vit could not be loaded \(no network\); .*random ones"
    with pytest.raises(InputError, match=message):
        load_backbone("timm:test_vit")


def test_a_module_in_python() -> None:
    network = ToyCNN(3)
    classifier = tame.FrozenClassifier.from_module(
        network, preprocess=Preprocessing(36, 32), classes=["cat", "dog", "bird"], cam_layer="stage2"
    )
    assert classifier.layers == ("stage1", "stage2", "stage3")
    assert (classifier.spec.name, classifier.spec.class_names[2]) == ("ToyCNN", "bird")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(classifier.logits(images), network.eval()(classifier.normalise(images)))


def test_a_transformer_in_python() -> None:
    classifier = tame.FrozenClassifier.from_module(toy_vit(), preprocess=Preprocessing(32, 32), name="mine")
    assert (classifier.spec.tokens, classifier.spec.masking) == (TokenLayout(1, (4, 4)), "vit")
    assert (classifier.spec.name, classifier.spec.num_classes) == ("mine", 5)


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 2), lambda: nn.Flatten()])
def test_a_module_that_is_no_classifier_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError):
        tame.FrozenClassifier.from_module(build(), preprocess=Preprocessing(8, 8))
