"""From arguments to finished evaluations: a user's own methods and maps, several methods, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tame
from small_runs import cells, measure
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import save_attention
from tame.classifier import FrozenClassifier
from tame.evaluation import open_run, read_run
from tame.evaluation.evaluate import evaluate
from tame.explainers import build_explainer, load_explainer
from tame.explainers.controls import centre_maps
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


@pytest.fixture(autouse=True)
def _fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths are below a fresh folder."""
    monkeypatch.chdir(tmp_path)


# --- a user's own methods and maps


def in_the_middle(images: Tensor, targets: Tensor) -> Tensor:
    return centre_maps(images)


def test_a_function_and_a_classifier_from_python(toy_classifier: Make, photographs: Path) -> None:
    classifier = toy_classifier()
    common: dict[str, Any] = {"data": str(photographs), "metrics": ["ad-ic", "deletion"], "steps": 3}
    table = tame.evaluate(in_the_middle, classifier, **common)
    settings = open_run("evaluations/toy_cnn/in_the_middle").summary.settings
    assert settings["method"] == "in_the_middle"
    assert settings["weights_sha256"] == classifier.weights_hash
    named = tame.evaluate("centre", classifier, **common)
    assert (table.index.tolist(), named.index.tolist()) == (["in_the_middle"], ["Centre"])
    assert table.loc["in_the_middle"].tolist() == named.loc["Centre"].tolist()
    assert cells(Path("evaluations/toy_cnn/in_the_middle")) == cells(Path("evaluations/toy_cnn/centre"))


def test_a_function_called_as_a_method_is_not_that_method(photographs: Path) -> None:
    def ttame(images: Tensor, targets: Tensor) -> Tensor:
        return images[:, 0]

    table = tame.evaluate(ttame, data=str(photographs), limit_images=1, progress=False)
    assert table.index.tolist() == ["ttame"]
    settings = open_run(table.attrs["folders"]["ttame"]).summary.settings
    assert (settings["method"], settings["backbone"]) == ("ttame", "efficientnet_lite0")
    assert "checkpoint" not in settings  # of the one that is shipped for this backbone


def test_a_method_of_the_working_folder(toy_backbone: str, photographs: Path) -> None:
    Path("own_method.py").write_text(
        "from tame.explainers.controls import centre_maps\n"
        "def middle(images, targets): return centre_maps(images)\n"
        "def build(classifier): return middle\n"
    )
    expected = measure("centre", out="centre")
    try:
        for name in ("own_method:middle", "own_method:build"):
            summary = measure(name, out=None)
            assert summary.settings["method"] == name and summary.metrics == expected.metrics
            assert cells(Path("evaluations/toy_cnn") / name.replace(":", ".")) == cells(Path("centre"))
        with pytest.raises(InputError, match="cannot import 'own_method:other'"):
            measure("own_method:other", out="other")
    finally:
        sys.modules.pop("own_method", None)
    assert not Path("other").exists()


def test_maps_from_a_folder(toy_classifier: Make, toy_backbone: str, photographs: Path) -> None:
    """Nothing is explained, so no checkpoint is named, nor need there be one."""
    expected = measure("centre", out="centre", metrics=["ad-ic", "road"])
    Path("made elsewhere/deep").mkdir(parents=True)
    for index in range(24):
        np.save(f"made elsewhere/{index:02}.npy", centre_maps(torch.zeros(1, 3, 32, 32))[0].numpy())
    summary = measure("ttame", maps="made elsewhere/", metrics=["ad-ic", "road"], out=None, checkpoint="explainer")
    assert summary.metrics == expected.metrics
    assert cells(Path("evaluations/toy_cnn/made elsewhere")) == cells(Path("centre"))
    assert (summary.settings["method"], summary.settings["maps"]) == ("made elsewhere", "made elsewhere/")
    assert not {"checkpoint", "checkpoint_sha256", "arguments"} & set(summary.settings)
    with pytest.raises(InputError, match="expected maps in place of a method, got both"):
        measure({"a": "centre", "b": "random"}, maps="made elsewhere", out="refused")
    with pytest.raises(InputError, match="expected maps in place of a method, got both"):
        measure(maps="made elsewhere", arguments={"centre": {}}, out="refused")
    np.save("made elsewhere/07.npy", np.full((32, 32), np.nan))
    np.save("made elsewhere/08.npy", np.full((32, 32), 5.0))
    summary = measure(maps="made elsewhere", out="broken")
    assert (summary.invalid, summary.constant, summary.images) == (1, 1, 24)
    np.save("made elsewhere/09.npy", np.ones((3, 3)))
    with pytest.raises(InputError, match=r"of one shape in made elsewhere, got \[\(3, 3\), \(32, 32\)\]"):
        measure(maps="made elsewhere", out="refused")
    Path("made elsewhere/09.npy").unlink()
    with pytest.raises(InputError, match=r"made elsewhere lacks the maps of 1 of 24 images, such as 09.npy"):
        measure(maps="made elsewhere", out="refused")
    assert not Path("refused").exists()


def test_arguments_that_are_none(toy_backbone: str, photographs: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'metric'"):
        evaluate("centre", metric="road")  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"unknown metric 'roda'; did you mean 'road'\? Known: ad-ic, road, "):
        measure(metrics=["roda"])
    with pytest.raises(InputError, match=r"sequence of names as metrics, such as \['road'\], got the text 'road'"):
        measure(metrics="road")
    with pytest.raises(InputError, match="sequence of names as map_scaling, .*, got the text 'rank'"):
        measure(map_scaling="rank")
    with pytest.raises(InputError, match="expected map scalings minmax or rank, got 'ranks'"):
        measure(map_scaling=["ranks"])
    with pytest.raises(InputError, match="expected the masking cnn or vit, got 'rnn'"):
        measure(masking="rnn")
    with pytest.raises(InputError, match="expected only all or correct, got 'right'"):
        measure(only="right")
    with pytest.raises(InputError, match="expected the precision auto, 32, 16-mixed, bf16-mixed, got '64'"):
        measure(precision="64")
    with pytest.raises(InputError, match="unknown method 'centr'; did you mean 'centre'"):
        measure("centr")
    with pytest.raises(InputError, match="unknown preset 'tam'; did you mean 'tame'"):
        measure(preset="tam")
    with pytest.raises(InputError, match="expected limit_images of at least 1, got 0"):
        measure(limit_images=0)
    with pytest.raises(InputError, match="rise takes no argument 'mask'; did you mean 'masks'"):
        measure("rise", arguments={"rise": {"mask": 3}})
    with pytest.raises(
        InputError, match=r"expected arguments of the methods that are evaluated \(rise\), got arguments of 'gradcam'"
    ):
        measure("rise", arguments={"rise": {"masks": 3}, "gradcam": {"layer": "stage2"}})
    Path("file").write_text("")
    with pytest.raises(InputError, match="expected a folder to write the results to, got file: file is a file"):
        measure(out="file")
    assert not Path("run").exists() and not Path("evaluations").exists()


# --- several methods


def trained(folder: str = "explainer") -> Path:
    """Save an attention mechanism of the toy classifier."""
    classifier = load_backbone("toy_cnn")
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    return save_attention(Path(folder), model, {"attention": "ttame", "output_size": "largest"})


def test_several_methods_at_once(toy_backbone: str, photographs: Path) -> None:
    trained()
    classifier = load_classifier("toy_cnn", device="cpu")
    asked = {
        "T-TAME": "ttame@explainer",
        "loaded": load_explainer(classifier, "explainer"),
        "few masks": build_explainer(classifier, "rise", masks=2),
        "mine": in_the_middle,
        "CAM": "gradcam",
    }
    common: dict[str, Any] = {"data": "photographs", "limit_images": 4, "metrics": ["deletion"], "steps": 2}
    common |= {"progress": False, "arguments": {"gradcam": {"layer": "stage2"}}}
    table = tame.evaluate(asked, classifier, out="all", **common)
    assert table.index.tolist() == list(asked) and table.index.name == "method"
    assert table.columns.tolist() == ["images", "deletion/AUC"] and table["images"].tolist() == [4] * 5
    assert table.attrs["main_process"] is True
    folders = table.attrs["folders"]
    assert folders == {name: str(Path("all") / name) for name in asked}
    settings = {name: open_run(folder).summary.settings for name, folder in folders.items()}
    methods = {name: each["method"] for name, each in settings.items()}
    assert methods == {
        "T-TAME": "ttame",
        "loaded": "ttame",
        "few masks": "rise",
        "mine": "in_the_middle",
        "CAM": "gradcam",
    }
    assert settings["T-TAME"] == settings["loaded"] and settings["T-TAME"]["checkpoint"] == "explainer"
    assert settings["few masks"]["arguments"] == {"masks": 2} and "checkpoint" not in settings["mine"]
    assert settings["CAM"]["arguments"] == {"layer": "stage2"}
    assert table.loc["T-TAME"].tolist() == table.loc["loaded"].tolist()
    for name, folder in folders.items():
        assert table.loc[name, "deletion/AUC"] == read_run(folder)["deletion/AUC"].mean()
    again = tame.evaluate(asked, classifier, out="all", **common)
    assert again.equals(table)
    assert Path("evaluations/toy_cnn/CAM/rows.csv").is_file() is False
    alone = tame.evaluate({"CAM": "gradcam"}, classifier, **common)
    assert alone.attrs["folders"] == {"CAM": "evaluations/toy_cnn/CAM"}


def test_the_classifier_is_that_of_the_explainers(toy_classifier: Make, photographs: Path) -> None:
    classifier = toy_classifier()
    common: dict[str, Any] = {"data": "photographs", "limit_images": 2, "progress": False}
    table = tame.evaluate(build_explainer(classifier, "centre"), **common)
    assert table.index.tolist() == ["Centre"]
    (folder,) = table.attrs["folders"].values()
    assert open_run(folder).summary.settings["weights_sha256"] == classifier.weights_hash
    other = build_explainer(toy_classifier(seed=1), "centre")
    message = r"expected explainers of one classifier, toy_cnn \(random\), got one of toy_cnn \(random\)"
    with pytest.raises(InputError, match=message):
        tame.evaluate({"a": build_explainer(classifier, "random"), "b": other}, **common)
    with pytest.raises(InputError, match=message):
        tame.evaluate(other, classifier, **common)
    same = build_explainer(toy_classifier(), "random")  # equal weights
    assert tame.evaluate(same, classifier, **common)["images"].tolist() == [2]


def test_a_classifier_by_name_or_as_a_network(toy_backbone: str, toy_classifier: Make, photographs: Path) -> None:
    common: dict[str, Any] = {"data": "photographs", "limit_images": 2, "progress": False}
    named = tame.evaluate("centre", "toy_cnn", out="named", **common)
    assert open_run("named").summary.settings["backbone"] == "toy_cnn"
    tame.evaluate("centre", toy_classifier().module, out="network", limit_images=1, data="photographs", progress=False)
    assert open_run("network").summary.settings["backbone"] == "ToyCNN"
    assert named["images"].tolist() == [2]


def test_methods_whose_folders_would_be_the_same(toy_backbone: str, photographs: Path) -> None:
    with pytest.raises(InputError, match="expected methods with names of different folders, got a:b, a/b"):
        measure({"a:b": "centre", "a/b": "random"})
    with pytest.raises(InputError, match="expected methods with names of different folders, got none"):
        measure({})
    assert not Path("run").exists()


def test_methods_read_the_layers_of_the_preset_or_of_their_checkpoint(toy_backbone: str, photographs: Path) -> None:
    """Unless the user named layers; the toy's sets are equal, so its layers are changed here."""
    classifier = load_backbone("toy_cnn", layers=["stage3"])
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    save_attention(Path("one_layer"), model, {"attention": "ttame", "output_size": "largest"})
    common: dict[str, Any] = {"data": "photographs", "limit_images": 2, "progress": False, "out": "all"}
    tame.evaluate({"T-TAME": "ttame@one_layer", "CAM": "gradcam"}, load_classifier("toy_cnn", device="cpu"), **common)
    layers = {name: open_run(Path("all") / name).summary.settings["layers"] for name in ("T-TAME", "CAM")}
    assert layers == {"T-TAME": ["stage3"], "CAM": ["stage1", "stage2", "stage3"]}
    named = load_classifier("toy_cnn", layers=["stage2"], device="cpu")
    assert measure("gradcam", classifier=named, limit_images=2).settings["layers"] == ["stage2"]
