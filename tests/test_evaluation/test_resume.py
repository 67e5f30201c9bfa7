"""Runs that were interrupted, finished, begun with other settings or by another version."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_runs import COUNT, EVERYTHING, Interrupted, cells, maps_by, names, numbers, run
from tame.classifier import FrozenClassifier
from tame.evaluation.rows import read_rows
from tame.metrics import (
    MaskedConfidence,
    Metric,
    build_metrics,
    settings_of,
)
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


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
    assert names(tmp_path / "cut") == ["rows.csv", "settings.json", "summary.json"]


@pytest.mark.parametrize("broken", ["tame.evaluation.folder.write_summary", "tame.evaluation.folder.RunFolder._remove"])
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


@pytest.mark.parametrize("finished", [True, False])
def test_interrupted_while_starting_over(
    toy_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """However far it came, rows of before are refused or gone, and never taken for those of another method."""
    classifier, remove, outcomes = toy_classifier(), Path.unlink, []
    metrics = (MaskedConfidence(masking="cnn"),)
    whole = numbers(run(classifier, tmp_path / "whole", metrics, method="centre"))
    for moment in range(8):
        out, calls = tmp_path / str(moment), 0
        if finished:
            run(classifier, out, metrics, method="random")
        else:
            with pytest.raises(Interrupted):
                run(classifier, out, metrics, method="random", stop=14)

        def fail(path: Path, missing_ok: bool = False) -> None:
            nonlocal calls
            calls += not path.name.startswith(".tame-")
            if calls > moment and not path.name.startswith(".tame-"):  # noqa: B023 - it is called in this turn
                raise Interrupted
            remove(path, missing_ok)

        with monkeypatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr(Path, "unlink", fail)
            run(classifier, out, metrics, method="centre", resume=False, stop=0)
        try:
            assert numbers(run(classifier, out, metrics, method="centre")) == whole
            outcomes.append("gone")
        except InputError as error:
            assert "holds a run with other settings: method 'random', not 'centre'" in str(error)
            outcomes.append("refused")
            assert numbers(run(classifier, out, metrics, method="centre", resume=False)) == whole
    assert outcomes == sorted(outcomes, reverse=True) and len(set(outcomes)) == 2


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
