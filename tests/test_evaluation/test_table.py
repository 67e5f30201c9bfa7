"""Tables: verdicts by hand, bold and dash, runs that cannot be compared."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tame.checks import InputError
from tame.evaluation import build_table
from tame.evaluation.records import ROWS, SUMMARY, read_rows, score_columns, summarise, write_rows, write_summary
from tame.types import MapScaling

SETTINGS: dict[str, Any] = {
    "backbone": "toy",
    "weights": "random",
    "weights_sha256": "abc",
    "masking": "cnn",
    "ic_margin": 1e-5,
    "keeps": [1.0, 0.15],
    "scalings": ["minmax", "rank"],
    "list_sha256": "1234",
    "preset": "tame",
    "overrides": {},
}


def make_run(
    folder: Path,
    method: str,
    masked: list[float],
    files: list[str] | None = None,
    scalings: tuple[MapScaling, ...] = ("minmax", "rank"),
    constant: int = 0,
    **changes: Any,
) -> Path:
    """A run with p = 0.5 everywhere and the same p' at every scaling and keep."""
    settings = SETTINGS | {"method": method, "scalings": list(scalings)} | changes
    names = score_columns(scalings, settings["keeps"])
    rows = [
        {
            "index": index,
            "file": (files or [f"{n}.jpg" for n in range(len(masked))])[index],
            "label": "",
            "p": 0.5,
            **dict.fromkeys(names, value),
            "constant": int(index < constant),
            "invalid": 0,
        }
        for index, value in enumerate(masked)
    ]
    write_rows(folder / ROWS, rows)
    write_summary(folder / SUMMARY, summarise(read_rows(folder / ROWS), settings))
    return folder


HALF = [0.25, 0.75] * 20  # AD 25, IC 50
GOOD = [0.45, 0.75] * 20  # AD 5, IC 50
BAD = [0.05, 0.4] * 20  # AD 55, IC 0


def three(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "a", "gradcam", HALF),
        make_run(tmp_path / "b", "ttame", GOOD, overrides={"masking": "cnn"}),
        make_run(tmp_path / "c", "random", BAD, constant=3),
    ]


def test_values_and_bold(tmp_path: Path) -> None:
    table = build_table(three(tmp_path))
    assert table.values[0] == pytest.approx([25, 50] * 4)
    assert table.values[1] == pytest.approx([5, 50] * 4)
    assert table.values[2] == pytest.approx([55, 0] * 4)
    assert [column.title for column in table.columns][:4] == [
        "AD 100 % (minmax)",
        "IC 100 % (minmax)",
        "AD 15 % (minmax)",
        "IC 15 % (minmax)",
    ]
    lines = table.markdown().splitlines()
    assert lines[0].startswith("AD (lower is better) and IC (higher is better) in percent: toy (random), 40 images")
    assert lines[0].endswith(", masking cnn, IC margin 1e-05.")
    assert lines[4] == f"| gradcam | tame {'| 25.00 | **50.00** ' * 4}|"
    assert lines[5].startswith("| ttame | tame, masking=cnn | **5.00** | **50.00** |")
    assert lines[6].startswith("| random | tame | 55.00 | 0.00 |")
    assert lines[-1] == "random: 3 constant and 0 invalid maps of 40, counted as all ones."
    assert table.reference is None and all(cell is None for row in table.comparisons for cell in row)


def test_verdicts(tmp_path: Path) -> None:
    table = build_table(three(tmp_path), reference="gradcam")
    assert table.comparisons[0] == [None] * 8
    drop, increase = table.comparisons[1][:2]
    assert drop is not None and increase is not None
    assert drop.difference == pytest.approx(-20) and drop.low < -20 < drop.high < 0 and drop.verdict == "win"
    assert increase == (0.0, 0.0, 0.0, "tie")
    assert [cell.verdict for cell in table.comparisons[2] if cell] == ["loss"] * 8
    lines = table.markdown().splitlines()
    assert "Difference to gradcam, 95 % interval, verdict for the method:" in lines
    (line,) = [line for line in lines if line.startswith("| ttame | -20.00")]
    assert "] win | +0.00 [+0.00, +0.00] tie |" in line
    assert not any(line.startswith("| gradcam | +") for line in lines)


def test_turned_around(tmp_path: Path) -> None:
    """What wins against a reference loses as the reference."""
    table = build_table(three(tmp_path), reference="ttame")
    assert [cell.verdict for cell in table.comparisons[0] if cell] == ["loss", "tie"] * 4


def test_a_difference_within_the_noise_is_a_tie(tmp_path: Path) -> None:
    noisy = [0.0, 0.5, 0.0, 0.5, 0.0, 0.4]
    other = [0.5, 0.0, 0.5, 0.0, 0.0, 0.5]
    runs = [make_run(tmp_path / "a", "one", noisy), make_run(tmp_path / "b", "two", other)]
    comparison = build_table(runs, reference="one").comparisons[1][0]
    assert comparison is not None
    assert comparison.low < 0 < comparison.high and comparison.verdict == "tie"


def test_controls_that_fool_a_measure(tmp_path: Path) -> None:
    """No rank-scaled reading, and never the best, although their AD is 0."""
    runs = [*three(tmp_path), make_run(tmp_path / "d", "all_ones", [0.5] * 40)]
    table = build_table(runs, reference="all_ones")
    assert table.values[3] == [0, 0, 0, 0, None, None, None, None]
    assert "| all_ones | tame | 0.00 | 0.00 | 0.00 | 0.00 | - | - | - | - |" in table.markdown()
    assert "**5.00**" in table.markdown()
    comparisons = table.comparisons[1]
    assert comparisons[0] is not None and comparisons[0].verdict == "loss"
    assert comparisons[4:] == [None] * 4  # nothing to compare with in ranks


def test_csv(tmp_path: Path) -> None:
    runs = [*three(tmp_path), make_run(tmp_path / "d", "fake_cam", [0.5] * 40)]
    lines = list(csv.DictReader(io.StringIO(build_table(runs, reference="gradcam").csv())))
    assert len(lines) == 4 * 8
    first, better = lines[0], lines[8]
    assert (first["method"], first["scaling"], first["metric"], first["keep"]) == ("gradcam", "minmax", "AD", "1.0")
    assert float(first["value"]) == pytest.approx(25) and first["verdict"] == first["low"] == ""
    assert (better["method"], better["verdict"]) == ("ttame", "win")
    assert float(better["difference"]) == pytest.approx(-20)
    assert lines[-1]["value"] == "" and lines[-1]["scaling"] == "rank"


def test_the_same_method_twice(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "ttame", HALF) for name in ("first", "second")]
    table = build_table(runs, reference="second")
    assert table.names == [f"ttame ({tmp_path / name})" for name in ("first", "second")]
    assert table.reference == 1


def test_reproducible(tmp_path: Path) -> None:
    runs = three(tmp_path)
    assert build_table(runs, "gradcam", seed=1) == build_table(runs, "gradcam", seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet50"}, "backbone resnet50, not toy"),
        ({"weights_sha256": "def"}, "weights_sha256 def, not abc"),
        ({"masking": "vit"}, "masking vit, not cnn"),
        ({"ic_margin": 0.0}, "ic_margin 0.0, not 1e-05"),
        ({"files": [f"{n}.png" for n in range(40)]}, "a list of 40 other images, not that of 40"),
        ({"list_sha256": "5678"}, "a list of 40 other images, not that of 40"),
        ({"scalings": ("minmax",)}, r"measures \['minmax/AD_100'.* not \["),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    runs = [make_run(tmp_path / "a", "gradcam", HALF), make_run(tmp_path / "b", "ttame", GOOD, **changes)]
    with pytest.raises(InputError, match=f"expected runs that can be compared, got .*b beside .*a, with {message}"):
        build_table(runs)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one folder of an evaluation, got none"):
        build_table([])
    with pytest.raises(InputError, match="expected the summary of a finished evaluation, got no file"):
        build_table([tmp_path / "absent"])
    with pytest.raises(InputError, match="expected one of the runs as reference: gradcam, ttame, random, got 'rise'"):
        build_table(three(tmp_path), reference="rise")
    with pytest.raises(InputError, match="expected at least 2 images for a bootstrap interval, got 1"):
        build_table([make_run(tmp_path / name, name, [0.5]) for name in ("x", "y")], reference="x")
