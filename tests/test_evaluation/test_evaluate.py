"""From arguments to finished evaluations: provenance, presets, images, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import tame
from small_runs import cells, measure, names
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import checkpoint_hash, save_attention
from tame.classifier import FrozenClassifier
from tame.data import list_hash, read_list, walk_images
from tame.evaluation import open_run, run_evaluations
from tame.evaluation.evaluate import evaluation_arguments, evaluation_of, resolve_request
from tame.explainers import build_explainer
from tame.utils.checks import InputError
from tame.utils.versions import versions

Make = Callable[..., FrozenClassifier]


@pytest.fixture(autouse=True)
def _fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths are below a fresh folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def labelled(photographs: Path, toy_backbone: str) -> Path:
    """A list of half of the photographs; the classifier is right about every second one."""
    names = [f"{index:02}.png" for index in range(0, 24, 2)]
    measure(out="plain")
    rows = open_run("plain").rows
    said = dict(zip(rows.files, rows.columns["target"].astype(int), strict=True))
    lines = [f"{name} {said[name] if number % 2 == 0 else (said[name] + 1) % 5}" for number, name in enumerate(names)]
    path = photographs.parent / "half.txt"
    path.write_text("\n".join(lines))
    return path


# --- provenance


def test_summary_says_where_the_numbers_come_from(labelled: Path, photographs: Path) -> None:
    classifier = load_backbone("toy_cnn")
    attention = build_attention("ttame", classifier.channels, 5)
    details = {"attention": "ttame", "output_size": "largest"}
    checkpoint = save_attention(Path("explainer"), ExplainedClassifier(classifier, attention), details)
    summary = measure(
        "ttame", checkpoint="explainer", list="half.txt", metrics=["road", "ad-ic"], masking="vit", seed=5
    )
    content = json.loads(Path("run/summary.json").read_text())
    assert content["settings"] == summary.settings == {
        "method": "ttame",
        "preset": "tame",
        "checkpoint": "explainer",
        "checkpoint_sha256": checkpoint_hash(checkpoint),
        "overrides": {"masking": "vit"},
        "list": "half.txt",
        "list_sha256": list_hash(read_list(labelled, photographs, 5), photographs),
        "only": "all",
        "precision": "32",
        "backbone": "toy_cnn",
        "weights": "random",
        "weights_sha256": classifier.weights_hash,
        "layers": ["stage1", "stage2", "stage3"],
        "preprocessing": json.loads(json.dumps(asdict(classifier.spec.preprocessing))),
        "metrics": ["road", "ad-ic"],
        "scalings": ["minmax", "rank"],
        "keeps": [1.0, 0.5, 0.15],
        "masking": "vit",
        "ic_margin": 1e-5,
        "removes": [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9],
        "road_selection": "exact",
        "road_space": "image",
        "road_reading": "confidence",
        "noise": 0.01,
        "seed": 5,
        "versions": versions(),
    }  # fmt: skip
    assert (content["images"], content["labelled"]) == (12, 12)
    assert content["accuracy"]["top1"] == 50 and content["accuracy"]["top5"] == 100
    assert content["cost"]["explain_forward"] == 1


def test_what_changes_the_maps_is_part_of_the_settings(toy_backbone: str, photographs: Path) -> None:
    def gradcam(layer: str) -> dict[str, Any]:
        return measure("gradcam", arguments={"gradcam": {"layer": layer}}, limit_images=2).settings

    def rise(limit: int = 2, **arguments: Any) -> dict[str, Any]:
        return measure("rise", arguments={"rise": arguments}, limit_images=limit, out="rise").settings

    assert gradcam("stage2")["arguments"] == gradcam("stage2")["overrides"] == {"layer": "stage2"}
    with pytest.raises(InputError, match="other settings: arguments.layer 'stage2', not 'stage1'"):
        gradcam("stage1")
    assert rise(masks=3)["arguments"] == rise(masks=3)["overrides"] == {"masks": 3}
    with pytest.raises(InputError, match="other settings: arguments.masks 3, not 4; overrides.masks 3, not 4"):
        rise(masks=4)
    with pytest.raises(InputError, match="other settings: list_sha256"):
        rise(3, masks=3)


def test_arguments_that_a_preset_sets(toy_backbone: str, photographs: Path) -> None:
    """They are part of the preset, unless the user says otherwise."""
    common: dict[str, Any] = {"limit_images": 2, "preset": "released"}
    settings = measure("rise", arguments={"rise": {"masks": 3}}, **common).settings
    assert settings["arguments"] == settings["overrides"] == {"masks": 3}
    logit = {"masks": 3, "weighting": "logit"}  # as the preset says
    assert measure("rise", arguments={"rise": logit}, out="same", **common).settings == settings
    other = measure("rise", arguments={"rise": logit | {"weighting": "confidence"}}, out="other", **common).settings
    assert other["arguments"] == other["overrides"] == {"masks": 3, "weighting": "confidence"}
    assert cells(Path("other")) != cells(Path("run")) == cells(Path("same"))


def test_a_folder_of_images_without_a_list(toy_backbone: str, photographs: Path) -> None:
    summary = measure(limit_images=5, seed=2)
    assert (summary.images, summary.labelled, summary.accuracy) == (5, 0, {})
    assert summary.settings["list"] == "photographs"
    assert len(open_run("run").rows.files) == 5
    assert list_hash(walk_images(photographs), photographs) != summary.settings["list_sha256"]


def test_images_of_a_list_may_lie_elsewhere(toy_backbone: str, photographs: Path) -> None:
    Path("data").mkdir()
    Path("list.txt").write_text(f"{photographs}/01.png 1\n../photographs/02.png 2\n")
    summary = measure(data="data", list="list.txt")
    assert summary.images == 2
    assert open_run("run").rows.files == ["../photographs/01.png", "../photographs/02.png"]


def test_random_weights_are_those_of_the_seed() -> None:
    def weights(**options: Any) -> str:
        return load_classifier("squeezenet1_1", weights="random", device="cpu", **options).weights_hash

    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert weights() == first != weights(seed=1)
    assert torch.equal(torch.get_rng_state(), state)


# --- presets, masking, precision


@pytest.mark.parametrize(
    ("preset", "asked", "masking", "overrides"),
    [
        ("tame", None, "vit", {}),
        ("paper", None, "vit", {}),
        ("released", None, "cnn", {}),
        ("released", "backbone", "vit", {"masking": "vit"}),
        ("tame", "cnn", "cnn", {"masking": "cnn"}),
    ],
)
def test_masking_of_a_transformer(
    toy_classifier: Make, photographs: Path, preset: str, asked: Any, masking: str, overrides: dict[str, str]
) -> None:
    settings = measure(classifier=toy_classifier("vit"), preset=preset, masking=asked, limit_images=2).settings
    assert (settings["masking"], settings["overrides"], settings["preset"]) == (masking, overrides, preset)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("tame", (1e-5, "exact", "image", "confidence")),
        ("paper", (0.0, "exact", "image", "confidence")),
        ("released", (0.0, "percentile", "network", "kept")),
    ],
)
def test_what_a_preset_chooses(
    toy_backbone: str, photographs: Path, preset: str, expected: tuple[float | str, ...]
) -> None:
    settings = measure(preset=preset, metrics=["ad-ic", "road"], limit_images=2).settings
    names = "ic_margin", "road_selection", "road_space", "road_reading"
    assert tuple(settings[name] for name in names) == expected


@pytest.mark.parametrize(("preset", "margin"), [("tame", 1e-2), ("released", 0.0)])
def test_half_precision_needs_a_wider_margin(toy_backbone: str, photographs: Path, preset: str, margin: float) -> None:
    half = measure("all_ones", precision="bf16-mixed", preset=preset, metrics=["ad-ic", "road"], limit_images=4)
    assert (half.settings["precision"], half.settings["ic_margin"]) == ("bf16-mixed", margin)
    full = measure("all_ones", preset=preset, metrics=["ad-ic", "road"], limit_images=4, out="full")
    assert half.metrics["minmax/AD_100"].value == pytest.approx(0, abs=1)
    assert half.metrics["road/morf_confidence"].value == pytest.approx(
        full.metrics["road/morf_confidence"].value, abs=1
    )
    p, q = (open_run(name).rows.columns["p"] for name in ("run", "full"))
    assert p.tolist() != q.tolist() and p.tolist() == pytest.approx(q.tolist(), abs=1e-2)


# --- only correct


def test_only_correct(labelled: Path) -> None:
    summary = measure(list="half.txt", only="correct")
    assert (summary.images, summary.labelled, summary.settings["only"]) == (6, 12, "correct")
    every = measure(list="half.txt", out="all")
    assert summary.accuracy == every.accuracy == {"top1": 50, "top5": 100}
    assert open_run("run").rows.columns["counted"].tolist() == [1, 0] * 6
    assert open_run("run").counted().files == [f"{index:02}.png" for index in range(0, 24, 4)]


def test_only_correct_needs_labels_and_an_image_that_is_right(labelled: Path) -> None:
    message = "only correct: expected a list with the labels of all images, got some without"
    with pytest.raises(InputError, match=message):
        measure(only="correct")
    Path("some.txt").write_text("00.png 1\n01.png ?\n")
    with pytest.raises(InputError, match=message):
        measure(only="correct", list="some.txt")
    assert not Path("run").exists()
    Path("wrong.txt").write_text("\n".join(labelled.read_text().splitlines()[1::2]))
    with pytest.raises(InputError, match="expected at least one image that counts, got none of 6"):
        measure(only="correct", list="wrong.txt")


# --- parts for other callers


def test_arguments_that_methods_share(toy_classifier: Make, photographs: Path) -> None:
    arguments = evaluation_arguments({"data": "photographs", "limit_images": 3})
    assert (arguments["batch_size"], arguments["devices"], arguments["preset"]) == (32, 1, "tame")
    assert not {"explainers", "classifier", "checkpoint", "arguments", "maps", "out"} & set(arguments)
    classifier = toy_classifier()
    request = resolve_request(classifier, arguments | {"progress": False})
    assert len(request.images.files) == 3 and request.settings.precision == "32"
    evaluation = evaluation_of(build_explainer(classifier, "centre"), classifier, request, Path("one"))
    assert run_evaluations([evaluation]) == [open_run("one").summary] and evaluation.title == "Centre"
    with pytest.raises(InputError, match="an evaluation takes no argument 'metric'; did you mean 'metrics'"):
        evaluation_arguments({"metric": ["road"]})
    with pytest.raises(InputError, match="an evaluation takes no argument 'maps'"):
        evaluation_arguments({"maps": "folder"})


# --- kill -9


def command(*arguments: str) -> dict[str, Any]:
    """Return how to start the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(tame.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return {"args": [sys.executable, "-m", "tame", *arguments], "env": environment}


@pytest.mark.slow
def test_killed_and_started_again(photographs: Path) -> None:
    """The same numbers to the last digit; finished batches keep their own seconds, so they were not measured again."""
    common = [
        *("evaluate", "--backbone", "squeezenet1_1", "--weights", "random", "--data", str(photographs)),
        *("--method", "random", "--metrics", "ad-ic,road", "--batch-size", "2", "--device", "cpu"),
        *("--num-workers", "1", "--limit-images", "9", "--out"),
    ]  # fmt: skip
    subprocess.run(**command(*common, "whole"), check=True, capture_output=True, timeout=300)
    parts = Path("killed/parts")
    with subprocess.Popen(**command(*common, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        started = time.monotonic()
        while not (parts / "0-000001.csv").is_file() and run.poll() is None and time.monotonic() < started + 300:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    assert not Path("killed/summary.json").exists()
    finished = [line for part in sorted(parts.glob("*.csv")) for line in part.read_text().splitlines()[1:]]
    assert 4 <= len(finished) < 9
    refused = subprocess.run(
        **command(*common, "killed", "--seed", "1"), check=False, capture_output=True, timeout=300, text=True
    )
    assert refused.returncode == 2 and "killed holds a run with other settings: " in refused.stderr
    subprocess.run(**command(*common, "killed"), check=True, capture_output=True, timeout=300)
    assert cells(Path("killed")) == cells(Path("whole"))
    assert Path("killed/rows.csv").read_text().splitlines()[1 : len(finished) + 1] == finished
    whole, killed = (open_run(name).summary for name in ("whole", "killed"))
    assert killed.metrics == whole.metrics and killed.settings == whole.settings
    assert names(Path("killed")) == ["rows.csv", "settings.json", "summary.json"]
