from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision import models
from torchvision.models import _api

from tame.backbones import BACKBONES, load_backbone
from tame.backbones.torchvision import torchvision_names, torchvision_spec
from tame.classifier import BackboneSpec, TokenLayout
from tame.utils.checks import InputError

BLOCKS = tuple(f"encoder.layers.encoder_layer_{index}" for index in (9, 10, 11))
POOLS = ("features.16", "features.23", "features.30")
SMALL = "shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    ("name", "paper", "released"),
    [
        ("vgg16", POOLS, POOLS),
        ("resnet50", ("layer2", "layer3", "layer4"), ("layer2", "layer3", "layer4")),
        ("vit_b_16", BLOCKS, tuple(f"{block}.ln_1" for block in BLOCKS)),
    ],
)
def test_the_published_backbones_have_the_published_layers(
    name: str, paper: tuple[str, ...], released: tuple[str, ...]
) -> None:
    spec = BACKBONES.get(name)
    assert (spec.layers["paper"], spec.layers["released"]) == (paper, released)


@pytest.mark.parametrize(
    ("name", "cam_layer", "masking"),
    [("vgg16", "features.29", "cnn"), ("resnet50", "layer4", "cnn"), ("vit_b_16", f"{BLOCKS[-1]}.ln_1", "vit")],
)
def test_the_published_backbones_have_their_cam_layer_and_masking(name: str, cam_layer: str, masking: str) -> None:
    spec = BACKBONES.get(name)
    assert (spec.cam_layer, spec.masking) == (cam_layer, masking)


@pytest.mark.parametrize("layer_set", ["paper", "released", "proposed"])
def test_the_layers_of_resnet50_exist(layer_set: str) -> None:
    assert load_backbone("resnet50", "random", layer_set).channels == (512, 1024, 2048)


def test_the_layers_of_vgg16_are_pools_and_the_activations_before_them() -> None:
    with torch.device("meta"):
        module = BACKBONES.get("vgg16").build()
    for pool, activation in zip(
        *(BACKBONES.get("vgg16").layers[name] for name in ("paper", "convolutional")), strict=True
    ):
        assert isinstance(module.get_submodule(pool), torch.nn.MaxPool2d)
        assert isinstance(module.get_submodule(activation), torch.nn.ReLU)


def test_the_layer_sets_of_vit_are_blocks_and_the_norms_before_their_attention() -> None:
    spec = BACKBONES.get("vit_b_16")
    with torch.device("meta"):
        modules = dict(spec.build().named_modules())
    assert {type(modules[name]).__name__ for name in spec.layers["paper"]} == {"EncoderBlock"}
    assert {type(modules[name]).__name__ for name in spec.layers["released"]} == {"LayerNorm"}
    assert spec.layer_aliases[f"{BLOCKS[0]}.ln"] == f"{BLOCKS[0]}.ln_1"


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "vit_b_16"])
def test_preprocessing_and_class_names_are_those_of_the_weights(name: str) -> None:
    spec = BACKBONES.get(name)
    preprocessing = spec.preprocessing
    assert (preprocessing.resize, preprocessing.crop, preprocessing.interpolation) == (256, 224, "bilinear")
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.229, 0.224, 0.225)
    assert (spec.num_classes, spec.class_names[0], spec.class_names[-1]) == (1000, "tench", "toilet tissue")


def test_weights_trained_at_another_size_bring_their_own_resize() -> None:
    spec = BACKBONES.get("resnet50")
    assert list(spec.weights) == ["imagenet1k_v1", "imagenet1k_v2"]
    assert spec.weights_preprocessing["imagenet1k_v2"].resize == 232


def test_weights_without_a_classifier_are_not_offered() -> None:
    assert list(BACKBONES.get("vgg16").weights) == ["imagenet1k_v1"]


@pytest.mark.parametrize(
    ("name", "crop", "grid", "weights"),
    [
        ("vit_b_16", 224, 14, ["imagenet1k_v1", "imagenet1k_swag_linear_v1"]),
        ("vit_b_32", 224, 7, ["imagenet1k_v1"]),
        ("vit_h_14", 518, 37, ["imagenet1k_swag_e2e_v1"]),
    ],
)
def test_transformers_have_the_grid_of_their_image_size_and_weights_that_fit_it(
    name: str, crop: int, grid: int, weights: list[str]
) -> None:
    spec = BACKBONES.get(name)
    assert spec.preprocessing.crop == crop
    assert spec.tokens == TokenLayout(prefix=1, grid=(grid, grid))
    assert list(spec.weights) == weights
    with torch.device("meta"):
        module = spec.build()
    assert module.image_size == crop


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_whose_weights_expect_another_normalisation_change_it_themselves(name: str) -> None:
    with torch.device("meta"):
        assert BACKBONES.get(name).build().transform_input


def test_every_classifier_of_torchvision_is_registered() -> None:
    assert set(torchvision_names()) <= set(BACKBONES.names())
    assert {"vgg16", "resnet50", "vit_b_16"} <= set(torchvision_names())


def test_a_name_that_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="torchvision has no classifier 'resnet51'"):
        torchvision_spec("resnet51")


def downloads(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    """Replace torchvision's download function."""
    monkeypatch.setattr(_api, "load_state_dict_from_url", answer)


def test_published_weights_are_downloaded_checked_and_loaded_without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    published = models.get_model(SMALL, weights=None).state_dict()

    def answer(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.update(url=url, **options)
        return published

    downloads(monkeypatch, answer)
    classifier = load_backbone(SMALL)
    assert asked["url"] == models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url
    assert asked["check_hash"] and asked["weights_only"]
    assert classifier.weights == "imagenet1k_v1"
    for name, value in classifier.module.state_dict().items():
        torch.testing.assert_close(value, published[name], atol=0, rtol=0)


@pytest.mark.parametrize(
    "error", [URLError("no route"), ConnectionResetError("reset"), RuntimeError("invalid hash value")]
)
def test_a_failed_download_names_the_alternatives(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise error

    downloads(monkeypatch, fail)
    with pytest.raises(
        InputError,
        match=r"weights IMAGENET1K_V1 could not be downloaded from https://.*; "
        r"choose a file of weights, or random ones \(weights \"random\"\)",
    ):
        load_backbone(SMALL)


def test_the_specs_are_built_without_the_network() -> None:
    assert isinstance(torchvision_spec("resnet18"), BackboneSpec)
