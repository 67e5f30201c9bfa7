"""Evaluations: hand values, batch sizes, interruption, other settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from brightness import brightness_classifier
from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.data import Batch
from tame.evaluation import Summary, evaluate, read_run
from tame.evaluation.records import read_rows
from tame.explainers import build_explainer
from tame.metrics import AverageDrop, IncreaseInConfidence
from tame.options import MethodOptions
from tame.perturb import masked_confidences, plain_confidences
from tame.versions import versions

Make = Callable[..., FrozenClassifier]
COUNT = 23
IMAGES = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([index % 5 for index in range(COUNT)])
LABELS[4] = -1


class Interrupted(Exception):  # noqa: N818 - no error
    """As if the process were killed."""


def batches(size: int, stop_after: int | None = None) -> Iterator[Batch]:
    for number, index in enumerate(torch.arange(COUNT).split(size)):
        if number == stop_after:
            raise Interrupted
        yield Batch(image=IMAGES[index], label=LABELS[index], index=index)


def run(
    classifier: FrozenClassifier, out: Path, loader: Any = None, method: str = "gradcam", **changes: Any
) -> Summary:
    options: dict[str, Any] = {
        "scalings": ("minmax", "rank"),
        "masking": "cnn",
        "margin": 1e-5,
        "batch_size": 16,
        "provenance": {"method": method, "preset": "tame", "overrides": {}},
        "files": [f"{index:02d}.jpg" for index in range(COUNT)],
        "progress": False,
    }
    explainer = build_explainer(classifier, MethodOptions(method))
    return evaluate(explainer, classifier, batches(7) if loader is None else loader, out=out, **options | changes)


def test_by_hand(tmp_path: Path) -> None:
    """The score is the pixel sum; the explainer ranks four pixels."""
    classifier = brightness_classifier(side=2, channels=1)
    image = torch.tensor([[[[1.0, 0.8], [0.6, 0.4]]]])
    batch = Batch(image=image, label=torch.tensor([0]), index=torch.tensor([0]))
    summary = evaluate(
        lambda images, targets: torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]),
        classifier,
        [batch],
        scalings=["minmax"],
        keeps=[0.5],
        masking="cnn",
        margin=0.0,
        batch_size=1,
        out=tmp_path,
        provenance={},
        progress=False,
    )
    p, masked = (1 / (1 + math.exp(-score)) for score in (2.8, 1.0 + 0.6 * 2 / 3))
    assert summary.metrics["minmax/AD_50"].value == pytest.approx(100 * (p - masked) / p, abs=1e-4)
    assert summary.metrics["minmax/IC_50"].value == 0
    assert summary.accuracy == {"top1": 100.0, "top5": 100.0}
    columns = read_run(tmp_path).rows.columns
    assert columns["p"][0] == pytest.approx(p, abs=1e-6) and columns["minmax_p_50"][0] == pytest.approx(
        masked, abs=1e-6
    )


def test_the_same_as_metrics_over_all_images_at_once(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    summary = run(classifier, tmp_path)
    targets, confidence, logits = plain_confidences(classifier, IMAGES)
    maps = build_explainer(classifier, MethodOptions("gradcam"))(IMAGES, targets)
    masked = masked_confidences(
        classifier,
        IMAGES,
        maps,
        targets,
        keeps=(1.0, 0.5, 0.15),
        scalings=("minmax", "rank"),
        masking="cnn",
        batch_size=64,
    )
    for row, scaling in enumerate(("minmax", "rank")):
        for column, keep in enumerate(("100", "50", "15")):
            for name, metric in (("AD", AverageDrop()), ("IC", IncreaseInConfidence())):
                metric.update(confidence, masked[row, column])
                found = summary.metrics[f"{scaling}/{name}_{keep}"].value
                assert found == pytest.approx(metric.compute().item(), abs=1e-3)
    known = LABELS >= 0
    correct = (targets == LABELS)[known].float().mean().item()
    assert summary.labelled == 22 and summary.accuracy["top1"] == pytest.approx(100 * correct)
    assert summary.accuracy["top5"] == 100.0  # of five classes
    assert read_run(tmp_path).summary == summary


def test_rows(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    run(classifier, tmp_path)
    rows = read_run(tmp_path).rows
    assert rows.files == [f"{index:02d}.jpg" for index in range(COUNT)]
    assert rows.columns["index"].tolist() == list(range(COUNT))
    assert math.isnan(rows.columns["label"][4]) and math.isnan(rows.columns["correct_top1"][4])
    assert list(rows.columns)[-8:-2] == [
        f"{scaling}_p_{keep}" for scaling in ("minmax", "rank") for keep in (100, 50, 15)
    ]
    targets = classifier.logits(IMAGES).argmax(1)
    assert rows.columns["target"].tolist() == targets.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "settings.json", "summary.json"]


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batch_sizes_do_not_matter(toy_classifier: Make, tmp_path: Path, size: int, batch_size: int) -> None:
    expected = run(toy_classifier(), tmp_path / "a", batches(COUNT), batch_size=1000, method="centre")
    found = run(toy_classifier(), tmp_path / "b", batches(size), batch_size=batch_size, method="centre")
    for name, estimate in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(estimate, abs=2e-3)
    p, q = (read_run(tmp_path / name).rows.columns["minmax_p_15"] for name in "ab")
    assert q.tolist() == pytest.approx(p.tolist(), abs=1e-5)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_interrupted_and_continued(toy_classifier: Make, tmp_path: Path, stop: int) -> None:
    """Equal to the last byte, and nothing is measured twice."""
    classifier = toy_classifier()
    whole = run(classifier, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(classifier, tmp_path / "cut", batches(7, stop))
    assert not (tmp_path / "cut" / "summary.json").exists()
    asked: list[int] = []
    inner = build_explainer(classifier, MethodOptions("gradcam"))

    def explainer(images: Tensor, targets: Tensor) -> Tensor:
        asked.append(len(images))
        return inner(images, targets)

    run_again = dict(masking="cnn", margin=1e-5, batch_size=16, files=[f"{index:02d}.jpg" for index in range(COUNT)])
    continued = evaluate(
        explainer,
        classifier,
        batches(7),
        scalings=("minmax", "rank"),
        out=tmp_path / "cut",
        provenance={"method": "gradcam", "preset": "tame", "overrides": {}},
        progress=False,
        **run_again,  # type: ignore[arg-type]
    )
    assert asked == [7, 7, 7, 2][stop:]
    assert continued == whole
    for name in ("rows.csv", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_interrupted_between_rows_and_summary(
    toy_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr("tame.evaluation.run.write_summary", fail)
        run(toy_classifier(), tmp_path / "cut")
    assert run(toy_classifier(), tmp_path / "cut") == run(toy_classifier(), tmp_path / "whole")


def test_continued_with_other_batches(toy_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, batches(7, 2))
    run(toy_classifier(), tmp_path, batches(4))
    assert read_rows(tmp_path / "rows.csv").columns["index"].tolist() == list(range(COUNT))


def test_a_finished_run_is_not_computed_again(toy_classifier: Make, tmp_path: Path) -> None:
    summary = run(toy_classifier(), tmp_path)
    assert run(toy_classifier(), tmp_path, batches(7, 0)) == summary  # the loader would raise


def test_starting_over(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    (tmp_path / "mine.txt").write_text("kept")
    again = run(toy_classifier(), tmp_path, method="random", resume=False)
    assert again.settings["method"] == "random"
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, batches(7, 0), method="random", resume=False)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masking": "vit"}, "masking 'cnn', not 'vit'"),
        ({"margin": 0.0}, "ic_margin 1e-05, not 0.0"),
        ({"keeps": (1.0,)}, r"keeps \[1.0, 0.5, 0.15\], not \[1.0\]"),
        (
            {"provenance": {"method": "gradcam", "overrides": {"masking": "cnn"}}},
            r"method 'centre', not 'gradcam'; overrides.masking unset, not 'cnn'; preset 'tame', not unset",
        ),
    ],
)
def test_other_settings(toy_classifier: Make, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    with pytest.raises(InputError, match=f"holds a run with other settings: {message}") as error:
        run(toy_classifier(), tmp_path, method="centre", **changes)
    assert "Give another --out, or --resume false to start over" in str(error.value)


def test_other_weights(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    with pytest.raises(InputError, match="other settings: weights_sha256 '.*', not '"):
        run(toy_classifier(seed=1), tmp_path, method="centre")


def test_repeated_images_count_once(toy_classifier: Make, tmp_path: Path) -> None:
    def repeating() -> Iterator[Batch]:
        yield from batches(7)
        index = torch.tensor([0, 5, 0])
        yield Batch(image=IMAGES[index], label=LABELS[index], index=index)

    once = run(toy_classifier(), tmp_path / "once")
    twice = run(toy_classifier(), tmp_path / "twice", repeating())
    assert twice == once
    inside = [0, 1, 1, 0, 2]
    batch = Batch(image=IMAGES[inside], label=LABELS[inside], index=torch.tensor(inside))
    run(toy_classifier(), tmp_path / "inside", [batch])
    assert read_rows(tmp_path / "inside" / "rows.csv").columns["index"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_all_ones_changes_nothing(toy_classifier: Make, tmp_path: Path, kind: str) -> None:
    """AD 0 and, with the margin, IC 0: a strict comparison would count rounding."""
    summary = run(toy_classifier(kind), tmp_path, method="all_ones", masking=kind)
    for keep in (100, 50, 15):
        assert summary.metrics[f"minmax/AD_{keep}"].value == pytest.approx(0, abs=1e-4)
        assert summary.metrics[f"minmax/IC_{keep}"].value == 0
    assert summary.constant == COUNT and summary.invalid == 0


def test_broken_maps_are_counted_and_do_not_end_the_run(toy_classifier: Make, tmp_path: Path) -> None:
    def explainer(images: Tensor, targets: Tensor) -> Tensor:
        maps = torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(0))
        maps[0, 0, 0] = float("nan")
        maps[1] = 3.0
        return maps

    summary = evaluate(
        explainer,
        toy_classifier(),
        batches(COUNT),
        scalings=["minmax"],
        masking="cnn",
        margin=1e-5,
        batch_size=8,
        out=tmp_path,
        provenance={},
        progress=False,
    )
    assert (summary.invalid, summary.constant) == (1, 1)
    columns = read_run(tmp_path).rows.columns
    assert columns["invalid"].tolist() == [1.0] + [0.0] * 22 and columns["constant"].tolist()[:3] == [0.0, 1.0, 0.0]
    assert columns["minmax_p_15"][0] == pytest.approx(columns["p"][0], abs=1e-6)


def test_settings_name_what_the_numbers_depend_on(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    settings = run(classifier, tmp_path, method="centre").settings
    assert settings["backbone"] == "toy_cnn" and settings["weights"] == "random"
    assert settings["weights_sha256"] == classifier.weights_hash
    assert (settings["method"], settings["preset"]) == ("centre", "tame")
    assert (settings["masking"], settings["ic_margin"], settings["keeps"]) == ("cnn", 1e-5, [1.0, 0.5, 0.15])
    assert settings["versions"] == versions()


def test_files_are_optional(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre", files=())
    assert read_run(tmp_path).rows.files[:2] == ["0", "1"]


def test_progress_goes_to_stderr(toy_classifier: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(toy_classifier(), tmp_path, method="centre", progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "centre" in captured.err


def test_errors_before_any_work(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    with pytest.raises(InputError, match="expected at least one image to evaluate, got none"):
        run(classifier, tmp_path / "empty", [])
    with pytest.raises(InputError, match="expected a batch size of 1 or more, got 0"):
        run(classifier, tmp_path / "a", batches(7, 0), batch_size=0)
    with pytest.raises(InputError, match="expected different scalings and keeps"):
        run(classifier, tmp_path / "b", batches(7, 0), scalings=("rank", "rank"))
    with pytest.raises(InputError, match=r"expected keep, a fraction of the pixels, in \(0, 1\], got 50"):
        run(classifier, tmp_path / "c", batches(7, 0), keeps=(50,))
    assert not any((tmp_path / name).exists() for name in "abc")


def test_settings_may_change_before_the_first_batch(toy_classifier: Make, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, batches(7, 0), margin=0.5)
    assert run(toy_classifier(), tmp_path).settings["ic_margin"] == 1e-5
