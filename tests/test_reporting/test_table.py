"""Tables: values and verdicts by hand, runs that cannot be compared, data of the curves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished_runs import AD_IC, ALL, BAD, CAUSAL, GOOD, HALF, ROAD, make_run, three
from table_text import markdown_lines
from tame import __version__
from tame.evaluation.records import SUMMARY, open_run
from tame.reporting.curves import curves_of
from tame.reporting.formats import csv, latex, markdown
from tame.reporting.results import Table
from tame.reporting.table import build_table, table
from tame.utils.checks import InputError
from tame.visualize import PANELS


def _change_summary(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / SUMMARY
    summary = json.loads(path.read_text(encoding="utf-8"))
    change(summary)
    path.write_text(json.dumps(summary), encoding="utf-8")


def shown(table: Table) -> dict[str, list[float | None]]:
    """Values per run, of the measures that tables show."""
    return {
        entry.name: [
            estimate and estimate.value
            for estimate, measure in zip(entry.estimates, table.measures, strict=True)
            if measure.in_table
        ]
        for entry in table.entries
    }


def verdicts(table: Table, row: int, *names: str) -> list[str | None]:
    found = dict(zip((measure.name for measure in table.measures), table.entries[row].comparisons, strict=True))
    return [(comparison := found[name]) and comparison.verdict for name in names]


def test_values_by_hand(tmp_path: Path) -> None:
    values = shown(build_table(three(tmp_path, ALL)))
    road, causal = [50, 50, 50, 50], [50, 50]
    assert values["Grad-CAM"] == pytest.approx([25, 50] * 4 + road + causal)
    assert values["T-TAME"] == pytest.approx([5, 50] * 4 + [60, 100] * 2 + [60, 60])
    assert values["Random"] == pytest.approx([55, 0] * 4 + [22.5, 0] * 2 + [22.5, 22.5])


@pytest.mark.parametrize(
    ("metrics", "changes", "caption"),
    [
        (AD_IC, {"ic_margin": 0.0}, "40 images, masking cnn, IC margin 0."),
        (ROAD, {"road_reading": "kept"}, "40 images, ROAD read as kept, noise 0.01."),
        (CAUSAL, {"list": "lists/val.txt"}, "40 images of val.txt, 2 steps."),
        (CAUSAL, {"precision": "bf16-mixed"}, "40 images, 2 steps, precision bf16-mixed."),
        (CAUSAL, {"only": "correct", "list": "val"}, "30 of 40 images of val (only correct), 2 steps."),
        (
            ALL,
            {},
            "40 images, masking cnn, IC margin 1e-05, ROAD read as confidence, noise 0.01, 2 steps.",
        ),
    ],
)
def test_caption(tmp_path: Path, metrics: dict[str, Any], changes: dict[str, Any], caption: str) -> None:
    run = make_run(tmp_path, "rise", HALF, metrics, uncounted=10 if "only" in changes else 0, **changes)
    assert build_table([run]).caption == f"toy (random), {caption}"


def test_verdicts(tmp_path: Path) -> None:
    table = build_table(three(tmp_path, ALL), reference="gradcam")
    assert table.reference == 0 and set(table.entries[0].comparisons) == {None}
    drop, increase = table.entries[1].comparisons[:2]
    assert drop is not None and increase is not None
    assert drop.difference == pytest.approx(-20) and drop.low < -20 < drop.high < 0 and drop.verdict == "win"
    assert increase == (0.0, 0.0, 0.0, "tie")
    names = "rank/AD_15", "rank/AG_15", "road/morf_kept", "road/lerf_kept_10", "insertion/AUC", "deletion/AUC"
    assert verdicts(table, 1, *names) == ["win", "tie", "loss", "win", "win", "loss"]
    assert verdicts(table, 2, *names) == ["loss", "loss", "win", "loss", "loss", "win"]
    lines = markdown_lines(table)
    start = "Difference to Grad-CAM, 95 % interval, verdict for the method. ROAD (MoRF: lower is better, "
    assert any(line.startswith(start) for line in lines)
    found = [re.findall("win|tie|loss", line) for line in lines if line.startswith("| T-TAME | +10.00 [")]
    assert found == [["loss", "loss", "win", "win"], ["win", "loss"]]  # ROAD; insertion and deletion
    assert not any(line.startswith("| Grad-CAM | +") for line in lines)


def test_turned_around(tmp_path: Path) -> None:
    """What wins against a reference loses as the reference."""
    table = build_table(three(tmp_path), reference="ttame")
    assert verdicts(table, 0, "minmax/AD_100", "minmax/IC_100", "rank/AD_15") == ["loss", "tie", "loss"]


def test_a_difference_within_the_noise_is_a_tie(tmp_path: Path) -> None:
    noisy = [0.0, 0.5, 0.0, 0.5, 0.0, 0.4]
    other = [0.5, 0.0, 0.5, 0.0, 0.0, 0.5]
    runs = [make_run(tmp_path / "a", "one", noisy), make_run(tmp_path / "b", "two", other)]
    comparison = build_table(runs, reference="one").entries[1].comparisons[0]
    assert comparison is not None
    assert comparison.low < 0 < comparison.high and comparison.verdict == "tie"


@pytest.mark.parametrize(("control", "name"), [("all_ones", "All ones"), ("fake_cam", "Fake-CAM")])
def test_controls_that_fool_a_measure(tmp_path: Path, control: str, name: str) -> None:
    """A min-max reading only, and never marked, although their AD is 0."""
    runs = [*three(tmp_path, ALL), make_run(tmp_path / "d", control, [0.5] * 40, ALL)]
    table = build_table(runs, reference=control)
    assert shown(table)[name] == [0, 0, 0, 0] + [None] * 10
    lines = markdown_lines(table)
    assert f"| {name} | tame | 0.00 | 0.00 | 0.00 | 0.00 | 1 | - |" in lines
    assert lines.count(f"| {name} | - | - | - | - | 1 | - |") == 2
    assert "| T-TAME | tame, masking=cnn | **5.00** | 50.00 | **5.00** | 50.00 | 1 | - |" in lines
    assert verdicts(table, 1, "minmax/AD_100", "rank/AD_100", "road/morf_kept") == ["loss", None, None]


@pytest.mark.parametrize("control", ["centre", "random"])
def test_controls_compete_with_no_method(tmp_path: Path, control: str) -> None:
    """The best values of a control are shown, and the best of the methods are marked."""
    runs = [make_run(tmp_path / "a", "gradcam", HALF), make_run(tmp_path / "b", control, GOOD)]
    runs.append(make_run(tmp_path / "c", "ttame", BAD))
    lines = markdown_lines(build_table(runs))
    assert "| Grad-CAM | tame | **25.00** | **50.00** | **25.00** | **50.00** | 1 | - |" in lines
    assert f"| {control.title()} | tame | 5.00 | 50.00 | 5.00 | 50.00 | 1 | - |" in lines


def test_a_note_says_where_the_classifier_gives_nan(tmp_path: Path) -> None:
    table = build_table([make_run(tmp_path / "a", "gradcam", [*HALF, math.nan])])
    assert table.notes == [
        "Grad-CAM: the classifier gives no finite confidence for 1 of 41 images, so that means over them are not "
        "numbers."
    ]


def test_a_frame_holds_every_measure(tmp_path: Path) -> None:
    runs = [*three(tmp_path, ALL), make_run(tmp_path / "d", "all_ones", [0.5] * 40, ALL)]
    table = build_table(runs)
    frame = table.frame()
    assert frame.index.name == "method" and frame.index.tolist() == ["Grad-CAM", "T-TAME", "Random", "All ones"]
    assert frame.columns.tolist() == ["images", *(measure.name for measure in table.measures)]
    assert frame["images"].tolist() == [40] * 4
    assert frame["minmax/AG_100"].tolist() == pytest.approx([25, 25, 0, 0])
    assert frame["rank/AD_15"].tolist() == pytest.approx([25, 5, 55, np.nan], nan_ok=True)
    assert frame.loc["T-TAME", "road/lerf_kept_50"] == pytest.approx(100)


def test_only_counted_images_enter(tmp_path: Path) -> None:
    """The uncounted ones would turn the verdict around."""
    changes: dict[str, Any] = {"uncounted": 30, "only": "correct"}
    runs = [
        make_run(tmp_path / "a", "one", [0.5] * 30 + [0.2, 0.3] * 5, **changes),
        make_run(tmp_path / "b", "two", [0.0] * 30 + [0.3, 0.4] * 5, **changes),
    ]
    table = build_table(runs, reference="one")
    assert shown(table)["two"][0] == pytest.approx(30)
    comparison = table.entries[1].comparisons[0]
    assert comparison is not None and comparison.difference == pytest.approx(-20) and comparison.verdict == "win"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["first", "second"], ["first", "second"]),
        (["a/x", "b/x", "y"], ["a/x", "b/x", "y"]),
        (["ttame-x", "ttame-y"], ["x", "y"]),
        (["ttame-x", "x"], ["ttame-x", "x"]),
    ],
)
def test_the_same_method_several_times(tmp_path: Path, folders: list[str], names: list[str]) -> None:
    runs = [make_run(tmp_path / folder, "ttame", HALF) for folder in folders]
    table = build_table([*runs, make_run(tmp_path / "other", "rise", HALF)], reference=str(runs[1]))
    assert [entry.name for entry in table.entries] == [*(f"T-TAME ({name})" for name in names), "RISE"]
    assert [entry.key for entry in table.entries] == [*(f"ttame ({name})" for name in names), "rise"]
    assert table.reference == 1


def test_what_was_made_smaller_is_said(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "rise", "rise", HALF, rise_masks=300),
        make_run(tmp_path / "published", "rise", HALF, rise_masks=8000),
        make_run(tmp_path / "none", "random", GOOD, constant=2),
    ]
    table = build_table(runs)
    assert table.notes == [
        "RISE (rise): 300 random masks, not the published 8000.",
        f"Random: 2 constant and 0 invalid maps of {len(GOOD)}, counted as all ones.",
    ]
    assert all(note in markdown(table) and note in latex(table) for note in table.notes)


def test_a_layer_that_was_asked_for_is_said(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name, HALF, cam_layer="features.3") for name in ("gradcam", "scorecam")]
    table = build_table(runs)
    assert "CAM layer features.3" in table.caption and not table.notes
    mixed = build_table([*runs, make_run(tmp_path / "ttame", "ttame", HALF)])
    assert "CAM layer" not in mixed.caption
    assert mixed.notes == ["Grad-CAM: CAM layer features.3.", "Score-CAM: CAM layer features.3."]


def test_weights_from_a_file_go_by_its_name(tmp_path: Path) -> None:
    table = build_table([make_run(tmp_path / "run", "ttame", HALF, weights="/somewhere/deep/mine.pth")])
    assert table.caption.startswith("toy (mine.pth), ")


def test_reproducible(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).uniform(0.1, 0.9, (2, 30)).tolist()
    runs = [make_run(tmp_path / "a", "gradcam", drawn[0]), make_run(tmp_path / "b", "ttame", drawn[1])]
    assert csv(build_table(runs, "gradcam", seed=1)) == csv(build_table(runs, "gradcam", seed=1))
    assert csv(build_table(runs, "gradcam", seed=1)) != csv(build_table(runs, "gradcam", seed=2))


@pytest.mark.parametrize(
    ("metrics", "changes", "message"),
    [
        (AD_IC, {"backbone": "resnet50"}, "backbone resnet50, not toy"),
        (AD_IC, {"metrics": ["ad-ic", "road"], "removes": [0.1]}, "only one of them with road/lerf_confidence, "),
        (AD_IC, {"weights_sha256": "def"}, "weights_sha256 def, not abc"),
        (AD_IC, {"masking": "vit"}, "masking vit, not cnn"),
        (AD_IC, {"ic_margin": 0.0}, "ic_margin 0.0, not 1e-05"),
        (AD_IC, {"precision": "16-mixed", "only": "correct"}, "precision 16-mixed, not 32; only correct, not all"),
        (AD_IC, {"files": [f"{n}.png" for n in range(40)]}, "a list of 40 other images, not that of 40"),
        (AD_IC, {"list_sha256": "5678"}, "a list of 40 other images, not that of 40"),
        (AD_IC, {"uncounted": 4}, "36 counted images, not the same 40"),
        (AD_IC, {"scalings": ["minmax"]}, "only one of them with rank/AD_100, rank/AD_15, rank/AG_100, "),
        (ROAD, {"road_selection": "percentile"}, "road_selection percentile, not exact"),
        (ROAD, {"road_space": "network"}, "road_space network, not image"),
        (ROAD, {"noise": 0.0, "seed": 1}, "noise 0.0, not 0.01; seed 1, not 0"),
        (ROAD, {"removes": [0.1]}, "only one of them with road/lerf_confidence_50, road/lerf_kept_50, "),
        (CAUSAL, {"steps": 4}, "steps 4, not 2"),
        (CAUSAL, {"metrics": ["insertion"]}, "only one of them with deletion/AUC"),
    ],
)
def test_runs_that_cannot_be_compared(
    tmp_path: Path, metrics: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    other = metrics | {name: value for name, value in changes.items() if name in metrics}
    changes = {name: value for name, value in changes.items() if name not in metrics}
    runs = [
        make_run(tmp_path / "a", "gradcam", HALF, metrics),
        make_run(tmp_path / "b", "ttame", GOOD, other, **changes),
    ]
    with pytest.raises(InputError, match=f"expected runs that can be compared, got .*b beside .*a, with {message}"):
        build_table(runs)


def test_other_seeds_matter_to_road_alone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), f"random {seed}", HALF, seed=seed) for seed in (0, 1)]
    assert len(build_table(runs).entries) == 2


def test_a_run_of_another_version_says_so(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, name, HALF, ROAD, versions={"tame": version})
        for name, version in (("old", "0.0.1"), ("new", "0.1.0"))
    ]
    _change_summary(runs[0], lambda summary: summary["settings"].pop("road_space"))
    message = "with road_space image, not unset; written by tame 0.1.0, not 0.0.1"
    with pytest.raises(InputError, match=message):
        build_table(runs)
    assert len(build_table(runs[:1]).entries) == 1  # by itself it can be read
    _change_summary(runs[1], lambda summary: summary["settings"].update(metrics=["road", "fidelity"]))
    message = f"new was written by tame 0.1.0; its metrics cannot be read by tame {__version__}, .*'fidelity'"
    for folders in (runs, runs[1:]):
        with pytest.raises(InputError, match=message):
            build_table(folders)
    _change_summary(
        runs[0], lambda summary: summary["metrics"].update({"road/sum": summary["metrics"]["road/morf_kept"]})
    )
    with pytest.raises(InputError, match="old was written by tame 0.0.1; .* unknown measures road/sum"):
        build_table(runs[:1])


def test_what_runs_do_not_record_has_its_default(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name, HALF) for name in ("one", "two")]
    _change_summary(runs[0], lambda summary: [summary["settings"].pop(key) for key in ("precision", "only")])
    assert len(build_table(runs).entries) == 2


def test_no_verdict_without_an_interval(tmp_path: Path) -> None:
    """A value that is NaN for some image leaves no difference, and nothing wins."""
    runs = [make_run(tmp_path / "a", "one", HALF, CAUSAL), make_run(tmp_path / "b", "two", GOOD, CAUSAL)]
    broken = open_run(runs[1])
    broken.rows.columns["insertion_1_p"][3] = np.nan
    table = build_table([open_run(runs[0]), broken], reference="one")
    assert verdicts(table, 1, "insertion/AUC", "deletion/AUC") == [None, "loss"]
    assert any(line.startswith("| two | - | +10.00 [") for line in markdown_lines(table))
    (line,) = (line for line in csv(table).splitlines() if line.startswith("two,tame,insertion/AUC,"))
    assert line.endswith(",,,,")


@pytest.mark.parametrize("reference", ["gradcam", "Grad-CAM", "a", "folder"])
def test_a_reference_goes_by_id_name_or_folder(tmp_path: Path, reference: str) -> None:
    runs = three(tmp_path)
    assert build_table(runs, reference=str(runs[0]) if reference == "folder" else reference).reference == 0


def test_a_folder_named_like_a_method(tmp_path: Path) -> None:
    """What names one run exactly is stronger than the method of several."""
    runs = [make_run(tmp_path / name, "ttame", HALF) for name in ("other", "ttame")]
    assert build_table(runs, reference="ttame").reference == 1
    with pytest.raises(InputError, match=r"as reference: T-TAME \(other\), T-TAME \(ttame\), got 'T-TAME'"):
        build_table(runs, reference="T-TAME")


def test_functions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, f"package.{name}:explain", HALF) for name in ("one", "two")]
    assert [entry.name for entry in build_table(runs).entries] == ["explain (one)", "explain (two)"]
    assert [entry.key for entry in build_table(runs).entries] == ["package.one:explain", "package.two:explain"]


def test_the_text_of_a_table(tmp_path: Path) -> None:
    runs, out = three(tmp_path, ALL), tmp_path / "new" / "table.tex"
    built = build_table(runs, "ttame")
    text = table(runs, reference="T-TAME", format="latex", out=out, curves=tmp_path / "curves.png")
    assert text == latex(built) == out.read_text(encoding="utf-8")
    assert (tmp_path / "curves.png").is_file() and (tmp_path / "curves.pdf").is_file()
    assert table(runs) == markdown(build_table(runs)) and table(runs, format="csv") == csv(build_table(runs))
    with pytest.raises(InputError, match="expected a file to write the table to, got the folder .*new"):
        table(runs, out=out.parent)
    with pytest.raises(InputError, match="expected a sequence of folders, got the single path 'a'"):
        table("a")
    with pytest.raises(InputError, match="expected a format among markdown, latex, csv, got 'html'"):
        table(runs, format="html")
    with pytest.raises(InputError, match="expected runs with the metric road"):
        table(three(tmp_path / "other"), out=tmp_path / "none.md", curves=tmp_path / "none")
    assert not (tmp_path / "none.md").exists()


def test_a_run_alone_is_no_difference(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "ttame", HALF)
    assert "Difference" not in markdown(build_table([run], reference="ttame"))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one folder of an evaluation, got none"):
        build_table([])
    with pytest.raises(InputError, match="expected the summary of a finished evaluation, got no file"):
        build_table([tmp_path / "absent"])
    with pytest.raises(InputError, match="expected one of the runs as reference: Grad-CAM, T-TAME, Random, got 'rise'"):
        build_table(three(tmp_path), reference="rise")
    with pytest.raises(InputError, match="expected at least 2 images for a bootstrap interval, got 1"):
        build_table([make_run(tmp_path / name, name, [0.5]) for name in ("x", "y")], reference="x")


def test_curves(tmp_path: Path) -> None:
    folders = [*three(tmp_path, ALL), make_run(tmp_path / "d", "all_ones", HALF, ALL)]
    curves = curves_of([open_run(folder) for folder in folders])
    assert curves.removes == [0.1, 0.5]
    assert list(curves.values) == list(curves.errors) == ["Grad-CAM", "T-TAME", "Random"]  # all ones have no order
    assert all(list(lines) == list(PANELS) for lines in curves.values.values())
    assert curves.values["T-TAME"]["morf_confidence"] == pytest.approx([60, 60])
    assert curves.values["Grad-CAM"]["lerf_kept"] == pytest.approx([50, 50])
    assert curves.errors["Grad-CAM"]["lerf_kept"] == pytest.approx([np.std([100, 0] * 20, ddof=1) / 40**0.5] * 2)
    assert curves.start == {"confidence": 50.0, "kept": 100.0}
    assert curves.title == "ROAD: toy (random), 40 images"


def test_curves_need_road(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="expected runs with the metric road .*, got ad-ic of Grad-CAM, T-TAME, Random"
    ):
        curves_of([open_run(folder) for folder in three(tmp_path)])
    with pytest.raises(InputError, match="got road of All ones"):
        curves_of([open_run(make_run(tmp_path / "d", "all_ones", HALF, ROAD))])
    with pytest.raises(InputError, match="expected at least one folder of an evaluation, got none"):
        curves_of([])


def test_only_counted_images_enter_the_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, "rise", [0.0, 0.0, 0.5, 0.7], ROAD, uncounted=2, only="correct")
    curves = curves_of([open_run(run)])
    assert curves.values["RISE"]["morf_confidence"] == pytest.approx([60, 60])
    assert curves.title == "ROAD: toy (random), 2 of 4 images (only correct)"


def test_invalid_maps_are_never_best(tmp_path: Path) -> None:
    """Counted as all ones they reach the best AD; a NaN among the values leaves no interval, hence no win."""
    runs = [make_run(tmp_path / "a", "gradcam", HALF), make_run(tmp_path / "b", "rise", [0.5] * 40, invalid=2)]
    runs += [make_run(tmp_path / "c", "eigencam", BAD)]
    for reference, row in (("gradcam", 1), ("rise", 0)):
        table = build_table(runs, reference)
        assert table.entries[row].comparisons == [None] * len(table.measures)
    lines = markdown_lines(table)
    assert "| RISE | tame | 0.00 | 0.00 | 0.00 | 0.00 | 1 | - |" in lines
    assert any(line.startswith("| Grad-CAM | tame | **25.00**") for line in lines)
    start = "RISE: 0 constant and 2 invalid maps of 40, counted as all ones."
    assert table.notes == [f"{start} Invalid maps are failures: no marks, no verdict."]
