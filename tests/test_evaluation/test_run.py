"""Evaluations: hand values, batch sizes, what is counted, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from brightness import brightness_classifier
from small_runs import COUNT, EVERYTHING, FILES, Images, Interrupted, cells, maps_by, names, numbers, request_for, run
from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation import Evaluation, open_run, read_run, run_evaluations
from tame.metrics import (
    ROAD,
    AverageDrop,
    AverageGain,
    Deletion,
    DeletionAUC,
    ImputedConfidence,
    IncreaseInConfidence,
    InsertionAUC,
    MaskedConfidence,
    perturbations_of,
)
from tame.perturbations import perturbed_scores, plain_scores
from tame.utils.checks import InputError
from tame.utils.versions import versions

Make = Callable[..., FrozenClassifier]


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_by_hand(tmp_path: Path) -> None:
    """The score is the pixel sum; the explainer ranks four pixels."""
    image = torch.tensor([[[1.0, 0.8], [0.6, 0.4]]])
    evaluation = Evaluation(
        lambda images, targets, indices: torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]),
        brightness_classifier(side=2, channels=1),
        [Sample(image=image, label=0, index=0)],  # type: ignore[arg-type] # as good as a dataset
        request_for((MaskedConfidence(("minmax",), (0.5,), ic_margin=0.0), Deletion(4)), ["only.png"]),
        {},
        tmp_path,
    )
    (summary,) = run_evaluations([evaluation])
    p, masked = sigmoid(2.8), sigmoid(1.0 + 0.6 * 2 / 3)
    deleted = [p, sigmoid(1.8), sigmoid(1.2), sigmoid(0.4), 0.5]  # pixels of 1, 0.6, 0.8 and 0.4 go, in this order
    assert summary.metrics["minmax/AD_50"].value == pytest.approx(100 * (p - masked) / p, abs=1e-4)
    assert summary.metrics["minmax/IC_50"].value == summary.metrics["minmax/AG_50"].value == 0
    area = (deleted[0] / 2 + sum(deleted[1:-1]) + deleted[-1] / 2) / 4
    assert summary.metrics["deletion/AUC"].value == pytest.approx(100 * area, abs=1e-4)
    assert summary.accuracy == {"top1": 100.0, "top5": 100.0}
    columns = open_run(tmp_path).rows.columns
    assert columns["p"][0] == pytest.approx(p, abs=1e-6)
    assert columns["minmax_50_p"][0] == pytest.approx(masked, abs=1e-6)
    assert [columns[f"deletion_{step}_p"][0] for step in range(5)] == pytest.approx(deleted, abs=1e-6)


def test_the_same_as_metrics_over_all_images_at_once(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    summary = run(classifier, tmp_path)
    data = Images()
    plain = plain_scores(classifier, data.images)
    maps = maps_by(classifier, "gradcam")(data.images, plain.targets, torch.arange(COUNT))
    scores = perturbed_scores(
        classifier, data.images, maps, plain.targets, torch.arange(COUNT), perturbations_of(EVERYTHING)
    )  # fmt: skip
    confidence = dict(zip(scores.names, scores.confidence, strict=True))
    kept = dict(zip(scores.names, scores.kept, strict=True))
    expected: dict[str, float] = {}
    for scaling in ("minmax", "rank"):
        for keep in ("100", "50", "15"):
            for name, metric in (("AD", AverageDrop()), ("IC", IncreaseInConfidence()), ("AG", AverageGain())):
                metric.update(plain.confidence, confidence[f"{scaling}_{keep}"])
                expected[f"{scaling}/{name}_{keep}"] = metric.compute().item()
    for order in ("morf", "lerf"):
        for reading in ("confidence", "kept"):
            for remove in (0.1, 0.5, 0.9):
                road = ROAD(order, remove, reading)  # type: ignore[arg-type]
                road.update(confidence[f"{order}_{100 * remove:g}"], kept[f"{order}_{100 * remove:g}"])
                expected[f"road/{order}_{reading}_{100 * remove:g}"] = road.compute().item()
            parts = [value for name, value in expected.items() if name.startswith(f"road/{order}_{reading}_")]
            expected[f"road/{order}_{reading}"] = sum(parts) / 3
    for kind, area in (("insertion", InsertionAUC(3)), ("deletion", DeletionAUC(3))):
        area.update(torch.stack([confidence[f"{kind}_{step}"] for step in range(4)]))
        expected[f"{kind}/AUC"] = area.compute().item()
    assert {name: estimate.value for name, estimate in summary.metrics.items()} == pytest.approx(expected, abs=1e-3)
    known = data.labels >= 0
    correct = (plain.targets == data.labels)[known].float().mean().item()
    assert summary.labelled == 22 and summary.accuracy["top1"] == pytest.approx(100 * correct)
    assert summary.accuracy["top5"] == 100.0  # of five classes
    assert open_run(tmp_path).summary == summary
    frame = read_run(tmp_path)
    for name, estimate in summary.metrics.items():
        assert frame[name].mean() == pytest.approx(estimate.value, abs=1e-9), name
    assert set(frame["morf_10_kept"]) <= {0, 1} and str(frame["morf_10_kept"].dtype) == "Int64"


def test_rows(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    run(classifier, tmp_path, (MaskedConfidence(), ImputedConfidence((0.1,))))
    rows = open_run(tmp_path).rows
    assert rows.files == FILES
    assert rows.columns["index"].tolist() == list(range(COUNT))
    assert math.isnan(rows.columns["label"][4]) and math.isnan(rows.columns["correct_top1"][4])
    assert list(rows.columns) == [
        "p", "index", "label", "target", "correct_top1", "correct_top5", "counted",
        *(f"{scaling}_{keep}_p" for scaling in ("minmax", "rank") for keep in (100, 50, 15)),
        "morf_10_p", "lerf_10_p", "morf_10_kept", "lerf_10_kept", "constant", "invalid",
        "explain_forward", "explain_backward", "seconds_explain", "seconds_perturb", "seconds_classify",
    ]  # fmt: skip
    assert rows.columns["target"].tolist() == classifier.logits(Images().images).argmax(1).tolist()
    assert set(rows.columns["morf_10_kept"]) <= {0, 1}
    assert names(tmp_path) == ["rows.csv", "settings.json", "summary.json"]


@pytest.mark.parametrize("pass_rows", [1, 7, 32])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batch_sizes_do_not_matter(toy_classifier: Make, tmp_path: Path, batch_size: int, pass_rows: int) -> None:
    """With maps that do not depend on them: rounding in a map may swap two nearly equal pixels."""
    expected = run(toy_classifier(), tmp_path / "a", method="random", batch_size=COUNT, pass_rows=1000)
    found = run(toy_classifier(), tmp_path / "b", method="random", batch_size=batch_size, pass_rows=pass_rows)
    for name, estimate in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(estimate, abs=2e-3), name
    before, after = (open_run(tmp_path / name).rows.columns for name in "ab")
    for name in before:
        if name.endswith("p"):
            assert after[name].tolist() == pytest.approx(before[name].tolist(), abs=1e-5), name


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
@pytest.mark.parametrize(("method", "heads"), [("gradcam", 1), ("ablationcam", 16)])
def test_work(toy_classifier: Make, tmp_path: Path, method: str, heads: int, precision: str) -> None:
    """Of one image, whatever the batch. The head is 80 of all 138,320 multiplications; passes are counted as before."""
    summary = run(toy_classifier(), tmp_path, (MaskedConfidence(),), method=method, precision=precision)
    assert summary.cost["work"] == pytest.approx(1 + heads * 80 / 138_320)
    assert summary.cost["explain_forward"] == (1 if method == "gradcam" else 17)


def test_work_is_measured_once(toy_classifier: Make, tmp_path: Path) -> None:
    """Also by a run that continues; what an older version left does not know it."""
    maps, sizes = maps_by(toy_classifier(), "gradcam"), list[int]()

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        sizes.append(len(images))
        return maps(images, targets, indices)

    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, maps_of=maps_of, stop=10)
    summary = run(toy_classifier(), tmp_path, maps_of=maps_of)
    assert sizes == [1, 7, 7, 7, 2] and "work" in summary.cost
    path = tmp_path / "summary.json"
    content = json.loads(path.read_text())
    del content["cost"]["work"]
    path.write_text(json.dumps(content))
    assert "work" not in open_run(tmp_path).summary.cost


def test_two_runs_agree_to_the_last_digit(toy_classifier: Make, tmp_path: Path) -> None:
    first, second = (run(toy_classifier(), tmp_path / name) for name in "ab")
    assert numbers(first) == numbers(second)
    assert cells(tmp_path / "a") == cells(tmp_path / "b")


# --- what is counted


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_all_ones_changes_nothing(toy_classifier: Make, tmp_path: Path, kind: str) -> None:
    """AD 0 and, with the margin, IC 0: a strict comparison would count rounding."""
    metrics = (MaskedConfidence(masking=kind),)  # type: ignore[arg-type]
    summary = run(toy_classifier(kind), tmp_path, metrics, method="all_ones")
    for keep in (100, 50, 15):
        assert summary.metrics[f"minmax/AD_{keep}"].value == pytest.approx(0, abs=1e-4)
        assert summary.metrics[f"minmax/IC_{keep}"].value == 0
    assert summary.constant == COUNT and summary.invalid == 0


def test_broken_maps_are_counted_and_do_not_end_the_run(toy_classifier: Make, tmp_path: Path) -> None:
    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        maps = torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(0))
        maps[indices == 0, 0, 0] = float("nan")
        maps[indices == 8] = 3.0
        maps[indices == 9, 1] = float("inf")
        return maps

    summary = run(toy_classifier(), tmp_path, maps_of=maps_of)
    assert (summary.images, summary.invalid, summary.constant) == (COUNT, 2, 1)
    columns = open_run(tmp_path).rows.columns
    assert columns["invalid"].nonzero()[0].tolist() == [0, 9] and columns["constant"].nonzero()[0].tolist() == [8]
    for index in (0, 8, 9):
        assert columns["minmax_15_p"][index] == pytest.approx(columns["p"][index], abs=1e-6)  # as all ones


def test_only_correct_leaves_wrong_images_out_of_the_metrics(toy_classifier: Make, tmp_path: Path) -> None:
    classifier, data = toy_classifier(), Images()
    data.labels = classifier.logits(data.images).argmax(1)
    right = [index for index in range(COUNT) if index % 3]
    data.labels[::3] = (data.labels[::3] + 1) % 5
    summary = run(classifier, tmp_path / "correct", dataset=data, only="correct", batch_size=1)
    every = run(classifier, tmp_path / "all", dataset=data, batch_size=1)
    assert (summary.images, summary.labelled, every.images) == (len(right), COUNT, COUNT)
    assert summary.accuracy == every.accuracy == {"top1": pytest.approx(100 * len(right) / COUNT), "top5": 100}
    found, all_of_them = cells(tmp_path / "correct"), cells(tmp_path / "all")
    for index in range(COUNT):
        if index in right:
            assert found[index] == all_of_them[index]
            continue
        assert found[index]["counted"] == "0" and found[index]["p"] == all_of_them[index]["p"] != ""
        names = list(found[index])
        assert {found[index][name] for name in names[names.index("counted") + 1 :]} == {""}
    columns = open_run(tmp_path / "all").rows.columns
    drop = (columns["p"] - columns["rank_50_p"]).clip(min=0) / columns["p"]
    assert summary.metrics["rank/AD_50"].value == pytest.approx(100 * drop[right].mean())
    assert len(open_run(tmp_path / "correct").counted().files) == len(right)
    assert summary.settings["only"] == "correct"


def test_no_image_that_counts(toy_classifier: Make, tmp_path: Path) -> None:
    classifier, data = toy_classifier(), Images()
    data.labels = (classifier.logits(data.images).argmax(1) + 1) % 5
    with pytest.raises(InputError, match="expected at least one image that counts, got none of 23"):
        run(classifier, tmp_path, dataset=data, only="correct")


# --- provenance and errors


def test_settings_name_what_the_numbers_depend_on(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    settings = run(classifier, tmp_path, method="centre").settings
    assert settings == {
        "method": "centre",
        "preset": "tame",
        "overrides": {},
        "only": "all",
        "precision": "32",
        "backbone": "toy_cnn",
        "weights": "random",
        "weights_sha256": classifier.weights_hash,
        "layers": ["stage1", "stage2", "stage3"],
        "preprocessing": {
            "resize": 36,
            "crop": 32,
            "interpolation": "bilinear",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
        },
        "metrics": ["ad-ic", "road", "insertion", "deletion"],
        "scalings": ["minmax", "rank"],
        "keeps": [1.0, 0.5, 0.15],
        "masking": "cnn",
        "ic_margin": 1e-5,
        "removes": [0.1, 0.5, 0.9],
        "road_selection": "exact",
        "road_space": "image",
        "road_reading": "confidence",
        "noise": 0.01,
        "seed": 0,
        "steps": 3,
        "versions": versions(),
    }
    assert json.loads((tmp_path / "summary.json").read_text())["settings"] == settings
    assert json.loads((tmp_path / "settings.json").read_text()) == settings


def test_progress_goes_to_stderr(toy_classifier: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(toy_classifier(), tmp_path, method="centre", progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "centre" in captured.err


def test_errors_before_any_work(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    with pytest.raises(InputError, match="expected at least one image to evaluate, got none"):
        run(classifier, tmp_path / "a", files=[], stop=0)
    with pytest.raises(InputError, match="expected batch_size of at least 1, got 0"):
        run(classifier, tmp_path / "a", batch_size=0, stop=0)
    with pytest.raises(InputError, match="expected num_workers from 0 to [0-9]+, got -1"):
        run(classifier, tmp_path / "a", num_workers=-1, stop=0)
    with pytest.raises(InputError, match="expected pass_rows of at least 1, got -1"):
        run(classifier, tmp_path / "a", pass_rows=-1, stop=0)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"expected a folder to write the results to, got .*: .*file is a file"):
            run(classifier, out, stop=0)
