"""Tables: values and verdicts by hand, runs that cannot be compared, data of the curves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished_runs import AD_IC, ALL, CAUSAL, GOOD, HALF, ROAD, make_run, three
from tame.evaluation.records import read_run
from tame.reporting.table import Table, build_table, compare, curves_of
from tame.utils.checks import InputError
from tame.visualize import PANELS


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
    assert values["gradcam"] == pytest.approx([25, 50] * 4 + road + causal)
    assert values["ttame"] == pytest.approx([5, 50] * 4 + [60, 100] * 2 + [60, 60])
    assert values["random"] == pytest.approx([55, 0] * 4 + [22.5, 0] * 2 + [22.5, 22.5])


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
    text = table.markdown()
    assert "Difference to gradcam, 95 % interval, verdict for the method. ROAD (MoRF: lower is better, " in text
    found = [re.findall("win|tie|loss", line) for line in text.splitlines() if line.startswith("| ttame | +10.00 [")]
    assert found == [["loss", "loss", "win", "win"], ["win", "loss"]]  # ROAD; insertion and deletion
    assert not any(line.startswith("| gradcam | +") for line in text.splitlines())


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


@pytest.mark.parametrize("control", ["all_ones", "fake_cam"])
def test_controls_that_fool_a_measure(tmp_path: Path, control: str) -> None:
    """A min-max reading only, and never marked, although their AD is 0."""
    runs = [*three(tmp_path, ALL), make_run(tmp_path / "d", control, [0.5] * 40, ALL)]
    table = build_table(runs, reference=control)
    assert shown(table)[control] == [0, 0, 0, 0] + [None] * 10
    lines = table.markdown().splitlines()
    assert f"| {control} | tame | 0.00 | 0.00 | 0.00 | 0.00 | 1 | - |" in lines
    assert lines.count(f"| {control} | - | - | - | - | 1 | - |") == 2
    assert "| ttame | tame, masking=cnn | **5.00** | **50.00** | **5.00** | **50.00** | 1 | - |" in lines
    assert verdicts(table, 1, "minmax/AD_100", "rank/AD_100", "road/morf_kept") == ["loss", None, None]


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
    assert [entry.name for entry in table.entries] == [*(f"ttame ({name})" for name in names), "rise"]
    assert table.reference == 1


def test_what_was_made_smaller_is_said(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "rise", "rise", HALF, rise_masks=300),
        make_run(tmp_path / "published", "rise", HALF, rise_masks=8000),
        make_run(tmp_path / "none", "random", GOOD, constant=2),
    ]
    table = build_table(runs)
    assert table.notes == [
        "rise (rise): 300 random masks, not the published 8000.",
        f"random: 2 constant and 0 invalid maps of {len(GOOD)}, counted as all ones.",
    ]
    assert all(note in table.markdown() and note in table.latex() for note in table.notes)


def test_a_layer_that_was_asked_for_is_said(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name, HALF, cam_layer="features.3") for name in ("gradcam", "scorecam")]
    table = build_table(runs)
    assert "CAM layer features.3" in table.caption and not table.notes
    mixed = build_table([*runs, make_run(tmp_path / "ttame", "ttame", HALF)])
    assert "CAM layer" not in mixed.caption
    assert mixed.notes == ["gradcam: CAM layer features.3.", "scorecam: CAM layer features.3."]


def test_weights_from_a_file_go_by_its_name(tmp_path: Path) -> None:
    table = build_table([make_run(tmp_path / "run", "ttame", HALF, weights="/somewhere/deep/mine.pth")])
    assert table.caption.startswith("toy (mine.pth), ")


def test_reproducible(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).uniform(0.1, 0.9, (2, 30)).tolist()
    runs = [make_run(tmp_path / "a", "gradcam", drawn[0]), make_run(tmp_path / "b", "ttame", drawn[1])]
    assert build_table(runs, "gradcam", seed=1).csv() == build_table(runs, "gradcam", seed=1).csv()
    assert build_table(runs, "gradcam", seed=1).csv() != build_table(runs, "gradcam", seed=2).csv()


@pytest.mark.parametrize(
    ("metrics", "changes", "message"),
    [
        (AD_IC, {"backbone": "resnet50"}, "backbone resnet50, not toy"),
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


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one folder of an evaluation, got none"):
        build_table([])
    with pytest.raises(InputError, match="expected the summary of a finished evaluation, got no file"):
        build_table([tmp_path / "absent"])
    with pytest.raises(InputError, match="expected one of the runs as reference: gradcam, ttame, random, got 'rise'"):
        build_table(three(tmp_path), reference="rise")
    with pytest.raises(InputError, match="expected at least 2 images for a bootstrap interval, got 1"):
        build_table([make_run(tmp_path / name, name, [0.5]) for name in ("x", "y")], reference="x")


def test_curves(tmp_path: Path) -> None:
    folders = [*three(tmp_path, ALL), make_run(tmp_path / "d", "all_ones", HALF, ALL)]
    curves = curves_of([read_run(folder) for folder in folders])
    assert curves.removes == [0.1, 0.5]
    assert list(curves.values) == list(curves.errors) == ["gradcam", "ttame", "random"]  # all ones have no order
    assert all(list(lines) == list(PANELS) for lines in curves.values.values())
    assert curves.values["ttame"]["morf_confidence"] == pytest.approx([60, 60])
    assert curves.values["gradcam"]["lerf_kept"] == pytest.approx([50, 50])
    assert curves.errors["gradcam"]["lerf_kept"] == pytest.approx([np.std([100, 0] * 20, ddof=1) / 40**0.5] * 2)
    assert curves.start == {"confidence": 50.0, "kept": 100.0}
    assert curves.title == "ROAD: toy (random), 40 images"


def test_curves_need_road(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected runs with the metric road .*, got ad-ic of gradcam, ttame, random"):
        curves_of([read_run(folder) for folder in three(tmp_path)])
    with pytest.raises(InputError, match="got road of all_ones"):
        curves_of([read_run(make_run(tmp_path / "d", "all_ones", HALF, ROAD))])
    with pytest.raises(InputError, match="expected at least one folder of an evaluation, got none"):
        compare([])


def test_only_counted_images_enter_the_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, "rise", [0.0, 0.0, 0.5, 0.7], ROAD, uncounted=2, only="correct")
    curves = curves_of([read_run(run)])
    assert curves.values["rise"]["morf_confidence"] == pytest.approx([60, 60])
    assert curves.title == "ROAD: toy (random), 2 of 4 images (only correct)"
