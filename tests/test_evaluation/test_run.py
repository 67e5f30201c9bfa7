"""Evaluations: hand values, batch sizes, processes, interruption, other settings."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brightness import brightness_classifier
from small_runs import COUNT, EVERYTHING, FILES, Images, Interrupted, cells, maps_by, numbers, request_for, run
from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation import open_run, read_run, run_evaluation
from tame.evaluation.processes import Process
from tame.evaluation.records import read_rows
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
    Metric,
    build_metrics,
    perturbations_of,
    settings_of,
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
    summary = run_evaluation(
        lambda images, targets, indices: torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]),
        brightness_classifier(side=2, channels=1),
        [Sample(image=image, label=0, index=0)],  # type: ignore[arg-type] # as good as a dataset
        request_for((MaskedConfidence(("minmax",), (0.5,), ic_margin=0.0), Deletion(4)), ["only.png"]),
        {},
        tmp_path,
    )
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "settings.json", "summary.json"]


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


# --- interruption


@pytest.mark.parametrize("stop", [0, 7, 21])
def test_interrupted_and_continued(toy_classifier: Make, tmp_path: Path, stop: int) -> None:
    """Equal to the last digit, and nothing is measured twice."""
    classifier = toy_classifier()
    whole = run(classifier, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(classifier, tmp_path / "cut", stop=stop)
    assert not (tmp_path / "cut" / "summary.json").exists()
    asked: list[int] = []
    inner = maps_by(classifier, "gradcam")

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    continued = run(classifier, tmp_path / "cut", maps_of=maps_of)
    assert asked == [0] * (stop == 0) + list(range(stop, COUNT))  # the first one once more, for its work
    assert numbers(continued) == numbers(whole)
    assert cells(tmp_path / "cut") == cells(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["rows.csv", "settings.json", "summary.json"]


@pytest.mark.parametrize("broken", ["tame.evaluation.run.write_summary", "tame.evaluation.folder.shutil.rmtree"])
def test_interrupted_around_the_summary(
    toy_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(broken, fail)
        run(toy_classifier(), tmp_path / "cut")
    assert (tmp_path / "cut" / "parts").exists()
    again = run(toy_classifier(), tmp_path / "cut", stop=0)  # nothing is read
    assert numbers(again) == numbers(run(toy_classifier(), tmp_path / "whole"))
    assert not (tmp_path / "cut" / "parts").exists()


def test_interrupted_while_starting_over(toy_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, method="random", stop=7)

    def fail(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Path, "unlink", fail)
        run(toy_classifier(), tmp_path, resume=False)
    assert run(toy_classifier(), tmp_path).settings["method"] == "gradcam"  # what was measured is gone


def test_continued_with_other_batches(toy_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, stop=14)
    run(toy_classifier(), tmp_path, batch_size=4)
    assert read_rows(tmp_path / "rows.csv").columns["index"].tolist() == list(range(COUNT))


class Memory:
    """Runs out when more than five images pass through a module, and remembers how many did."""

    def __init__(self, module: nn.Module) -> None:
        self.passes: list[int] = []
        module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.passes.append(len(args[0]))
        if len(args[0]) > 5:
            raise torch.OutOfMemoryError


def test_rows_per_pass_that_were_found_are_used_again(toy_classifier: Make, tmp_path: Path) -> None:
    whole = Memory((classifier := toy_classifier()).module)
    run(classifier, tmp_path / "whole", batch_size=3, method="centre")
    assert [size for size in whole.passes if size > 5] == [8]
    with pytest.raises(Interrupted):
        Memory((classifier := toy_classifier()).module)
        run(classifier, tmp_path / "cut", batch_size=3, method="centre", stop=3)
    assert json.loads((tmp_path / "cut" / "parts" / "0-pass-rows.json").read_text()) == {"rows": 4}
    continued = Memory((classifier := toy_classifier()).module)
    run(classifier, tmp_path / "cut", batch_size=3, method="centre")
    assert max(continued.passes) == 4  # full passes of four, and it never asks for more
    assert cells(tmp_path / "cut") == cells(tmp_path / "whole")


# --- other settings


def test_a_finished_run_is_not_computed_again(toy_classifier: Make, tmp_path: Path) -> None:
    summary = run(toy_classifier(), tmp_path)
    assert run(toy_classifier(), tmp_path, stop=0) == summary  # the images would raise


def test_starting_over(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    (tmp_path / "mine.txt").write_text("kept")
    again = run(toy_classifier(), tmp_path, method="random", resume=False)
    assert again.settings["method"] == "random"
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, method="random", resume=False, stop=0)
    assert not (tmp_path / "summary.json").exists()


def changed(**settings: Any) -> tuple[Metric, ...]:
    """Return `EVERYTHING` with other settings."""
    together = settings_of(EVERYTHING) | settings
    return build_metrics(together["metrics"], together)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("asked", "changes", "message"),
    [
        ({"masking": "vit"}, {}, "masking 'cnn', not 'vit'"),
        ({"ic_margin": 0.0}, {}, "ic_margin 1e-05, not 0.0"),
        ({"keeps": (1.0,)}, {}, r"keeps \[1.0, 0.5, 0.15\], not \[1.0\]"),
        ({"steps": 5, "seed": 1}, {}, "seed 0, not 1; steps 3, not 5"),
        ({"metrics": ("road", "ad-ic", "insertion")}, {}, r"metrics \['ad-ic', 'road', .*not \['road', 'ad-ic', "),
        ({"road_selection": "percentile"}, {}, "road_selection 'exact', not 'percentile'"),
        ({}, {"only": "correct"}, "only 'all', not 'correct'"),
        ({}, {"precision": "bf16-mixed"}, "precision '32', not 'bf16-mixed'"),
        (
            {},
            {"provenance": {"method": "gradcam", "overrides": {"masking": "cnn"}}},
            r"method 'centre', not 'gradcam'; overrides.masking unset, not 'cnn'; preset 'tame', not unset",
        ),
    ],
)
def test_other_settings(
    toy_classifier: Make,
    tmp_path: Path,
    asked: dict[str, Any],
    changes: dict[str, Any],
    message: str,
    finished: bool,
) -> None:
    if finished:
        run(toy_classifier(), tmp_path, method="centre")
    else:
        with pytest.raises(Interrupted):
            run(toy_classifier(), tmp_path, method="centre", stop=7)
    with pytest.raises(InputError, match=f"holds a run with other settings: {message}") as error:
        run(toy_classifier(), tmp_path, changed(**asked), method="centre", **changes)
    assert "Choose another output folder (out), or start over (resume false)" in str(error.value)


def rewrite(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the settings of a run on disk."""
    settings = json.loads((out / "settings.json").read_text())
    change(settings)
    (out / "settings.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings["versions"].update(tame="0.0.9"), r"tame 0.0.9, not \d+\.\d+"),
        (lambda settings: settings.pop("versions"), r"tame unknown, not \d+\.\d+"),
        (lambda settings: settings.update(dropout=0.5), "its setting dropout is unknown"),
        (lambda settings: settings.update(dropout=0.5, area=1), "its settings area, dropout are unknown"),
        (lambda settings: settings.update(rise_masks=20), "its setting rise_masks is unknown"),
    ],
)
def test_a_run_of_another_version_is_not_mixed_with_this_one(
    toy_classifier: Make,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
    finished: bool,
) -> None:
    if finished:
        run(toy_classifier(), tmp_path, method="centre")
    else:
        with pytest.raises(Interrupted):
            run(toy_classifier(), tmp_path, method="centre", stop=7)
    rewrite(tmp_path, change)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    expected = f"holds a run of another version of this package, whose settings cannot be compared: {message}"
    with pytest.raises(InputError, match=expected):
        run(toy_classifier(), tmp_path, method="centre")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run(toy_classifier(), tmp_path, method="centre", resume=False).images == COUNT


def test_a_run_with_the_keys_of_an_earlier_version_is_resumed(toy_classifier: Make, tmp_path: Path) -> None:
    arguments = {"layer": "stage2"}
    provenance = {"method": "centre", "preset": "tame", "overrides": arguments, "arguments": arguments}
    whole = run(toy_classifier(), tmp_path / "whole", method="centre", provenance=provenance)
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path / "cut", method="centre", provenance=provenance, stop=7)

    def as_before(settings: dict[str, Any]) -> None:
        settings["cam_layer"] = settings.pop("arguments")["layer"]
        settings["overrides"] = {}

    rewrite(tmp_path / "cut", as_before)
    assert numbers(run(toy_classifier(), tmp_path / "cut", method="centre", provenance=provenance)) == numbers(whole)


def test_other_weights(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    with pytest.raises(InputError, match="other settings: weights_sha256 '.*', not '"):
        run(toy_classifier(seed=1), tmp_path, method="centre")


def test_another_preprocessing_of_a_finished_run_is_refused(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    run(classifier, tmp_path)
    spec = replace(classifier.spec, preprocessing=replace(classifier.spec.preprocessing, mean=(0.5, 0.5, 0.5)))
    changed = FrozenClassifier(spec, classifier.module, classifier.layers, classifier.weights)
    with pytest.raises(InputError, match=r"preprocessing\.mean \[0\.4, 0\.5, 0\.6\], not \[0\.5, 0\.5, 0\.5\]"):
        run(changed, tmp_path)
    rewrite(tmp_path, lambda settings: settings.pop("preprocessing"))  # written by an earlier version
    assert run(classifier, tmp_path).images > 0


def test_settings_may_change_before_the_first_batch(toy_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, changed(ic_margin=0.5), stop=0)
    assert run(toy_classifier(), tmp_path).settings["ic_margin"] == 1e-5


# --- several processes


class Shared:
    """What threads use as processes of one run; nothing may be built in them, as tracing is made for one thread."""

    def __init__(self, count: int = 2) -> None:
        self.count, self.barrier, self.said = count, threading.Barrier(count, timeout=60), True

    def process(self, rank: int) -> Process:
        def from_first(value: bool) -> bool:
            if rank == 0:
                self.said = value
            self.barrier.wait()
            said = self.said
            self.barrier.wait()
            return said

        return Process(rank, self.count, self.barrier.wait, from_first)

    def run(self, work: Callable[[Process], object]) -> list[object]:
        """Return what each process returns or raises."""
        results: list[object] = [None] * self.count

        def one(rank: int) -> None:
            try:
                results[rank] = work(self.process(rank))
            except BaseException as error:
                results[rank] = error
                if not isinstance(error, InputError | SystemExit):
                    self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_measure_every_image_once(toy_classifier: Make, tmp_path: Path, count: int) -> None:
    classifier = toy_classifier()
    alone = run(classifier, tmp_path / "alone", method="centre")
    classifiers, asked = [toy_classifier() for _ in range(count)], []
    inner = maps_by(classifier, "centre")

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    results = Shared(count).run(
        lambda process: run(classifiers[process.rank], tmp_path / "all", maps_of=maps_of, process=process)
    )
    assert sorted(asked) == [0, *range(COUNT)]  # the first process asks once more, for the work
    for result in results:
        assert result == results[0]
        for name, estimate in alone.metrics.items():
            assert result.metrics[name] == pytest.approx(estimate, abs=2e-3), name  # type: ignore[attr-defined]
    rows = open_run(tmp_path / "all").rows
    assert rows.files == FILES
    before = open_run(tmp_path / "alone").rows.columns
    for name, values in rows.columns.items():
        if name.endswith("p"):
            assert values.tolist() == pytest.approx(before[name].tolist(), abs=1e-5), name


def test_what_several_processes_began_one_can_end(toy_classifier: Make, tmp_path: Path) -> None:
    classifiers = [toy_classifier(), toy_classifier()]
    maps = [maps_by(classifier, "gradcam") for classifier in classifiers]
    results = Shared().run(
        lambda process: run(
            classifiers[process.rank],
            tmp_path,
            maps_of=maps[process.rank],
            batch_size=3,
            stop=7 if process.rank else 12,
            process=process,
        )
    )
    assert [type(result) for result in results] == [Interrupted, Interrupted]
    parts = sorted(path.name for path in (tmp_path / "parts").glob("*.csv"))
    assert parts == ["0-000000.csv", "0-000001.csv", "1-000000.csv"]  # 0 2 4, 6 8 10; 1 3 5
    asked: list[int] = []
    inner = maps_by(toy_classifier(), "gradcam")

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    run(toy_classifier(), tmp_path, maps_of=maps_of)
    assert asked == [index for index in range(COUNT) if index not in (0, 2, 4, 6, 8, 10, 1, 3, 5)]
    assert open_run(tmp_path).rows.files == FILES


def test_settings_that_the_first_process_refuses_end_all_of_them(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    classifiers = [toy_classifier(), toy_classifier()]
    first, second = Shared().run(
        lambda process: run(classifiers[process.rank], tmp_path, method="random", process=process)
    )
    assert isinstance(first, InputError) and "holds a run with other settings" in str(first)
    assert isinstance(second, SystemExit) and second.code == 2


def test_more_processes_than_images(toy_classifier: Make, tmp_path: Path) -> None:
    images, classifiers = [Images()[0]], [toy_classifier(), toy_classifier()]
    results = Shared().run(
        lambda process: run(
            classifiers[process.rank], tmp_path, dataset=images, files=FILES[:1], process=process, method="centre"
        )
    )
    assert [getattr(result, "images", result) for result in results] == [1, 1]


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
    with pytest.raises(InputError, match="expected batch_size >= 1 and num_workers >= 0, got 0 and 0"):
        run(classifier, tmp_path / "a", batch_size=0, stop=0)
    with pytest.raises(InputError, match="expected batch_size >= 1 and num_workers >= 0, got 7 and -1"):
        run(classifier, tmp_path / "a", num_workers=-1, stop=0)
    with pytest.raises(InputError, match=r"expected rows per pass of 1 or more, or None \(as many as fit\), got -1"):
        run(classifier, tmp_path / "a", pass_rows=-1, stop=0)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"expected a folder to write the results to, got .*: .*file is a file"):
            run(classifier, out, stop=0)
