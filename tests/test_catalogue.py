"""Tables of backbones, methods, metrics, presets and attention mechanisms."""

import sys

import pytest

import tame
from tame.attention import ATTENTIONS
from tame.backbones import BACKBONES
from tame.catalogue import KINDS, list_available
from tame.explainers import EXPLAINERS
from tame.metrics import METRICS
from tame.presets import PRESETS
from tame.utils.checks import InputError

REGISTRIES = {
    "backbones": BACKBONES,
    "methods": EXPLAINERS,
    "metrics": METRICS,
    "presets": PRESETS,
    "attention": ATTENTIONS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_a_row_for_everything_that_is_registered(kind):
    table = list_available(kind)
    assert sorted(table["name"]) == sorted(REGISTRIES[kind])
    assert all(table["summary"].str.len() > 4)
    assert table.isna().to_numpy().sum() == 0 or kind == "presets"  # a preset may leave the masking to the backbone


def test_it_is_public():
    assert tame.list_available("presets").equals(list_available("presets"))


@pytest.mark.parametrize("kind", ["backbones", "methods", "metrics", "attention"])
def test_cost_and_paper_stand_beside_each_name(kind):
    table = list_available(kind).set_index("name")
    assert table["cost"].str.len().gt(0).all()
    own = {"all_ones", "centre", "fake_cam", "random", "ttame-smooth"}  # controls, and ours
    assert set(table.index[table["paper"] == ""]) <= own


def test_methods_with_their_arguments():
    table = list_available("methods").set_index("name")
    assert table.loc["rise", "title"] == "RISE"
    assert table.loc["rise", "arguments"].startswith("masks=8000, batch_size, seed=0")
    assert table.loc["gradcam", "arguments"] == "layer"
    assert table.loc["ttame", "arguments"] == "checkpoint"
    assert table.loc["centre", "arguments"] == ""


def test_presets_with_the_numbers_that_they_set():
    table = list_available("presets").set_index("name")
    assert list(table.index) == ["tame", "paper", "released"]
    assert table["epochs"].tolist() == [2, 8, 8] and table["max_lr"].tolist() == [5e-3, 1e-3, 1e-3]
    for name in PRESETS:
        for field, value in vars(PRESETS.get(name)).items():
            if field != "name":
                assert table.loc[name, field] == value or (value is None and table[field].isna()[name])


def test_metrics_with_their_measures():
    table = list_available("metrics").set_index("name")
    assert list(table.index) == ["ad-ic", "road", "insertion", "deletion"]
    assert table.loc["ad-ic", "cost"] == "6 forward"
    assert {"minmax/AD_100", "rank/IC_15"} <= set(table.loc["ad-ic", "measures"].split(", "))


def test_backbones_as_torchvision_describes_them():
    table = list_available("backbones").set_index("name")
    assert table.loc["resnet50"].to_dict() == {
        "summary": "ResNet-50",
        "input": "224 x 224",
        "classes": 1000,
        "cost": "4.09 G multiply-adds, 25.6 M weights",
        "weights": "imagenet1k_v1, imagenet1k_v2",
        "paper": "Deep Residual Learning for Image Recognition, arXiv:1512.03385",
    }
    assert table.loc["vit_b_16", "summary"] == "vit_b_16"
    assert not table["summary"].str.contains("Construct|architecture| from|`").any()
    assert table["paper"].str.contains("arXiv:|https?://").all()


def test_a_backbone_of_the_users_own(toy_backbone):
    row = list_available("backbones", "toy*").iloc[0]
    assert (row["name"], row["classes"], row["input"], row["weights"]) == ("toy_cnn", 5, "32 x 32", "random")


@pytest.mark.parametrize(
    ("kind", "pattern", "expected"),
    [
        ("methods", "GRAD*", ["gradcam", "gradcam++"]),
        ("methods", "rise", ["rise"]),
        ("presets", "*a*e*", ["tame", "paper", "released"]),
        ("attention", "lcam-*-a", ["lcam-fm-a", "lcam-img-a"]),
        ("metrics", "x", []),
    ],
)
def test_a_pattern_selects_names(kind, pattern, expected):
    assert list_available(kind, pattern)["name"].tolist() == expected


def test_a_pattern_finds_timms_classifiers_too():
    pytest.importorskip("timm")
    assert list_available("backbones", "resnet18")["name"].tolist() == ["resnet18", "timm:resnet18"]
    table = list_available("backbones", "timm:vit_tiny_patch16_224").set_index("name")
    assert table.loc["timm:vit_tiny_patch16_224", ["input", "classes"]].tolist() == ["224 x 224", 1000]
    assert not list_available("backbones")["name"].str.startswith("timm:").any()


def test_a_pattern_with_a_colon_finds_the_methods_of_other_libraries():
    pytest.importorskip("pytorch_grad_cam")
    names = list_available("methods", "grad-cam:*")["name"].tolist()
    assert {"grad-cam:EigenCAM", "grad-cam:HiResCAM"} <= set(names)
    assert all(name.startswith("grad-cam:") for name in names)
    pytest.importorskip("captum")
    assert list_available("methods", "captum:Integrated*")["name"].tolist() == ["captum:IntegratedGradients"]


def test_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert list_available("methods", "captum:*").empty


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert list_available("backbones", "resnet18")["name"].tolist() == ["resnet18"]


def test_an_unknown_kind():
    with pytest.raises(InputError, match="cannot list 'metric'; expected backbones, methods, metrics, presets, att"):
        list_available("metric")
