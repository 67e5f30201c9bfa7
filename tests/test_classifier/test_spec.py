from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tame.backbones import BACKBONES
from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
from tame.utils.checks import InputError


def imagenet() -> BackboneSpec:
    return BACKBONES.get("efficientnet_lite0")


@pytest.mark.parametrize("target", [285, "285", " 285 ", "Egyptian cat", "egyptian CAT"])
def test_a_target_is_an_index_or_a_name_in_any_case(target: str | int) -> None:
    assert imagenet().resolve_target(target) == 285


@pytest.mark.parametrize(("name", "index"), [("crane", 517), ("crane bird", 134), ("maillot", 638)])
def test_a_whole_name_wins_over_names_that_contain_it(name: str, index: int) -> None:
    assert imagenet().resolve_target(name) == index


def test_a_name_of_two_classes_asks_for_the_index() -> None:
    with pytest.raises(InputError, match=r"'cardigan' is ambiguous: use one of the indices #264 \(.*\), #474 \("):
        imagenet().resolve_target("cardigan")


def named(*names: str) -> BackboneSpec:
    return BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=names)


def test_two_cranes_are_refused_with_both_indices() -> None:
    for names in (("crane", "dog", "crane"), ("crane, bird", "dog", "Crane, machine")):
        with pytest.raises(InputError, match=r"'crane' is ambiguous: use one of the indices #0 \(.*\), #2 \("):
            named(*names).resolve_target("crane")
    assert named("crane, bird", "dog", "Crane, machine").resolve_target("machine") == 2


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_unicode_normal_forms_of_a_name_are_equal(form: str) -> None:
    names = [unicodedata.normalize(form, name) for name in ("Dogge", "Möwe", "Straße")]
    for other in ("NFC", "NFD"):
        assert named(*names).resolve_target(unicodedata.normalize(other, "möwe")) == 1
    assert named(*names).resolve_target("STRASSE") == 2


def test_a_name_that_is_another_class_s_index_is_refused() -> None:
    digits = named("3", "0", "5")
    with pytest.raises(InputError, match=r"'0' is ambiguous: use one of the indices #0 \(3\), #1 \(0\)"):
        digits.resolve_target("0")
    assert (digits.resolve_target("#0"), digits.resolve_target(0), digits.resolve_target("#1")) == (0, 0, 1)
    assert digits.resolve_target("5") == 2  # no index of three classes
    assert named("0", "1", "2").resolve_target("1") == 1


@pytest.mark.parametrize(
    "values", [{"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}, {"std": (255.0,) * 3}]
)
def test_mean_and_std_of_images_in_0_to_255_are_refused_with_the_values_to_give(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected mean and std of images in \[0, 1\], at most 1, got") as error:
        Preprocessing(8, 8, **values)
    if "mean" in values:
        assert "divided by 255, mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)" in str(error.value)


@pytest.mark.parametrize("index", [1000, "-1", "9" * 5000])
def test_an_index_out_of_range_names_the_range(index: str | int) -> None:
    with pytest.raises(InputError, match=rf"expected a class index in 0\.\.999, got {str(index)[:30]}"):
        imagenet().resolve_target(index)


@pytest.mark.parametrize(
    ("unknown", "near"),
    [
        ("tabby cat", r"'tabby'"),  # resembles
        ("sunglas", r"'sunglass' \(836\), 'sunglasses' \(837\)"),  # is contained
        ("expreso", r"'espresso' \(967\)"),  # misspelt
    ],
)
def test_an_unknown_class_shows_similar_names_with_their_indices(unknown: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"unknown class '{unknown}' for efficientnet_lite0; similar names: .*{near}"):
        imagenet().resolve_target(unknown)


@pytest.mark.parametrize("odd", ["qqqqqqqq", "²", "--3"])
def test_an_unknown_class_without_similar_names_is_still_an_input_error(odd: str) -> None:
    with pytest.raises(InputError, match=f"unknown class '{odd}' for toy$"):
        BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog")).resolve_target(odd)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": 0}, "expected resize of 1 to 8192 pixels, a number or (height, width), got 0"),
        ({"crop": (24, 0)}, "expected crop of 1 to 8192 pixels, a number or (height, width), got (24, 0)"),
        ({"crop": [24, 40]}, "expected crop of 1 to 8192 pixels, a number or (height, width), got [24, 40]"),
        ({"crop": 22.5}, "expected crop of 1 to 8192 pixels, a number or (height, width), got 22.5"),
        ({"interpolation": "nearest"}, "expected the interpolation bilinear or bicubic, got 'nearest'"),
        ({"mean": (0.5,)}, "mean and std of the same length, one value per channel, got (0.5,) and (0.2, 0.2, 0.2)"),
        ({"mean": (), "std": ()}, "expected mean and std of the same length, one value per channel, got () and ()"),
        (
            {"std": (0.2, 0.0, 0.2)},
            "expected finite means and stds above 0, got mean (0.5, 0.5, 0.5) and std (0.2, 0.0,",
        ),
        ({"mean": (0.5, float("nan"), 0.5)}, "expected finite means and stds above 0, got mean (0.5, nan, 0.5)"),
    ],
)
def test_preprocessing_checks_its_numbers(values: dict[str, Any], message: str) -> None:
    plain: dict[str, Any] = {"resize": 8, "crop": 8, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    with pytest.raises(InputError, match=re.escape(message)):
        Preprocessing(**plain | values)


def test_preprocessing_of_any_shape_and_number_of_channels() -> None:
    assert Preprocessing(30, (24, 40), mean=(0.5,), std=(0.2,)).shape == (1, 24, 40)
    assert Preprocessing((24, 40), 24).shape == (3, 24, 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "softmin"}, "expected the score softmax or sigmoid or probability, got 'softmin'"),
        ({"class_names": ("cat",)}, "the softmax of a single class is always 1: expected two class names"),
    ],
)
def test_a_score_without_information_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), **{"class_names": ("cat", "dog")} | changes)


def test_tokens_become_a_map_row_by_row_without_their_prefix() -> None:
    tokens = torch.arange(8.0).view(1, 8, 1).repeat(2, 1, 3)  # token t has value t
    grid = TokenLayout(prefix=2, grid=(2, 3)).to_map(tokens)
    assert grid.shape == (2, 3, 2, 3)
    assert grid[1, 2].tolist() == [[2, 3, 4], [5, 6, 7]]


def test_the_gate_multiplies_patches_by_the_class_token() -> None:
    tokens = torch.tensor([[[2.0, 10.0], [1.0, 1.0], [3.0, 4.0]]])  # class token, then two patches
    grid = TokenLayout(prefix=1, grid=(1, 2), gate=True).to_map(tokens)
    assert grid.tolist() == [[[[2.0, 6.0]], [[10.0, 40.0]]]]


@pytest.mark.parametrize("shape", [(1, 16, 4), (1, 18, 4), (1, 4, 4, 4)])
def test_a_wrong_number_of_tokens_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected tokens of shape \(B, 1 \+ 4 \* 4, D\), got \(1, "):
        TokenLayout(prefix=1, grid=(4, 4)).to_map(torch.zeros(shape))


def test_a_gate_needs_a_prefix_token() -> None:
    with pytest.raises(InputError, match="expected a prefix token"):
        TokenLayout(prefix=0, grid=(2, 2), gate=True)


@pytest.mark.shared
@pytest.mark.parametrize(("case", "gate"), [("ViT_adapter_TAME", False), ("ViT_adapter_TTAME", True)])
def test_token_maps_equal_those_of_the_authors_program(shared_dir: Path, case: str, gate: bool) -> None:
    path = shared_dir / "reference" / "authors_program" / "attention_small.pt"
    reference = torch.load(path, weights_only=True)[case]
    layout = TokenLayout(prefix=1, grid=(14, 14), gate=gate)
    for tokens, expected in zip(reference["inputs"], reference["adapted_maps"], strict=True):
        torch.testing.assert_close(layout.to_map(tokens), expected, atol=1e-6, rtol=0)
