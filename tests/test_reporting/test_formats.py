"""Tables as text: marks, LaTeX that compiles, CSV that reads back."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finished_runs import AD_IC, ALL, GOOD, HALF, make_run, three
from table_text import markdown_lines
from tame.reporting.formats import csv as csv_text
from tame.reporting.formats import escaped, latex, markdown
from tame.reporting.layout import multiply_adds
from tame.reporting.table import build_table


def test_markdown(tmp_path: Path) -> None:
    table = build_table(three(tmp_path))
    assert markdown_lines(table) == [
        "toy (random), 40 images, masking cnn, IC margin 1e-05.",
        "In percent; best **bold**, second <u>underlined</u>; FP: forward (+ backward) passes per image; "
        "cost: multiply-adds, relative to one forward pass of the classifier.",
        "",
        "Min-max scaled maps (AD: lower is better, IC: higher is better)",
        "",
        "| method | preset | AD 100 % | IC 100 % | AD 15 % | IC 15 % | FP | cost |",
        "|:---|:---|---:|---:|---:|---:|---:|---:|",
        "| Grad-CAM | tame | <u>25.00</u> | 50.00 | <u>25.00</u> | 50.00 | 1 + 1 backward | 1.26 |",
        "| T-TAME | tame, masking=cnn | **5.00** | 50.00 | **5.00** | 50.00 | 1 | - |",
        "| Random | tame | 55.00 | 0.00 | 55.00 | 0.00 | 0 | 0.00 |",
        "",
        "Rank-scaled maps (AD: lower is better, IC: higher is better)",
        "",
        "| method | AD 100 % | IC 100 % | AD 15 % | IC 15 % | FP | cost |",
        "|:---|---:|---:|---:|---:|---:|---:|",
        "| Grad-CAM | <u>25.00</u> | 50.00 | <u>25.00</u> | 50.00 | 1 + 1 backward | 1.26 |",
        "| T-TAME | **5.00** | 50.00 | **5.00** | 50.00 | 1 | - |",
        "| Random | 55.00 | 0.00 | 55.00 | 0.00 | 0 | 0.00 |",
        "",
        "Random: 3 constant and 0 invalid maps of 40, counted as all ones.",
    ]


def test_each_metric_has_its_own_part(tmp_path: Path) -> None:
    lines = markdown_lines(build_table(three(tmp_path, ALL)))
    assert [line for line in lines if line.endswith("better)")] == [
        "Min-max scaled maps (AD: lower is better, IC: higher is better)",
        "Rank-scaled maps (AD: lower is better, IC: higher is better)",
        "ROAD (MoRF: lower is better, LeRF: higher is better)",
        "Insertion and deletion (Insertion: higher is better, Deletion: lower is better)",
    ]
    assert "| method | MoRF confidence | MoRF accuracy | LeRF confidence | LeRF accuracy | FP | cost |" in lines
    assert "| T-TAME | <u>60.00</u> | <u>100.00</u> | **60.00** | **100.00** | 1 | - |" in lines
    assert "| Random | 22.50 | 0.00 | 22.50 | 0.00 | 0 | 0.00 |" in lines
    assert "| T-TAME | **60.00** | <u>60.00</u> | 1 | - |" in lines


def test_metrics_of_one_column_share_a_part(tmp_path: Path) -> None:
    changes = {"metrics": ["ad-ic", "deletion"], "steps": 2}
    lines = markdown_lines(build_table([make_run(tmp_path, "ttame", HALF, AD_IC | changes)]))
    assert [line for line in lines if line.endswith("better)")][1:] == [
        "Rank-scaled maps (AD: lower is better, IC: higher is better)",
        "Deletion (Deletion: lower is better)",
    ]


def test_units(tmp_path: Path) -> None:
    table = build_table(three(tmp_path))
    assert "\nIn percent; best" in markdown(table)
    bits = [replace(measure, unit="bits") if measure.name == "rank/AD_15" else measure for measure in table.measures]
    table = replace(table, measures=bits)
    assert "\nIn percent, except AD 15 % (rank); best" in markdown(table)
    assert r" In percent, except AD 15 \% (rank); best" in latex(table)


def test_where_all_methods_tie_there_is_no_mark(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name, values) for name, values in (("ttame", HALF), ("rise", HALF))]
    lines = markdown_lines(build_table(runs))
    assert lines[7:9] == [f"| {name} | tame | 25.00 | 50.00 | 25.00 | 50.00 | 1 | - |" for name in ("T-TAME", "RISE")]
    runs.append(make_run(tmp_path / "all_ones", "all_ones", GOOD))  # it bears no mark, so it is no rival either
    assert "**2" not in markdown(build_table(runs))


def test_values_that_read_the_same_share_their_mark(tmp_path: Path) -> None:
    drops = {"one": 0.4, "two": 0.40000001, "three": 0.3, "four": 0.3, "five": 0.2}
    runs = [make_run(tmp_path / name, name, [value] * 3) for name, value in drops.items()]
    lines = markdown_lines(build_table(runs))[7:12]
    assert [line.split(" | ")[2] for line in lines] == [
        "**20.00**",
        "**20.00**",
        "<u>40.00</u>",
        "<u>40.00</u>",
        "60.00",
    ]


def test_csv(tmp_path: Path) -> None:
    table = build_table(three(tmp_path, ALL), reference="gradcam")
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert len(lines) == 3 * (len(table.measures) + 5) + 2  # the cost of one run is unknown
    found = {(line["method"], line["measure"]): line for line in lines}
    first, better = found["gradcam", "minmax/AD_100"], found["ttame", "minmax/AD_100"]
    assert (first["preset"], first["better"], first["verdict"], first["low"]) == ("tame", "lower", "", "")
    assert float(first["value"]) == pytest.approx(25)
    assert float(first["standard_error"]) == pytest.approx(np.std([50, 0] * 20, ddof=1) / 40**0.5)
    assert (better["preset"], better["verdict"]) == ("tame, masking=cnn", "win")
    assert float(better["difference"]) == pytest.approx(-20) and float(better["low"]) < float(better["high"]) < 0
    assert float(found["ttame", "minmax/AG_100"]["value"]) == pytest.approx(25)  # in no other format
    assert found["ttame", "road/lerf_kept_50"]["better"] == "higher"
    assert float(found["gradcam", "cost/explain_backward"]["value"]) == 1
    assert float(found["gradcam", "cost/work"]["value"]) == 1.256 and ("ttame", "cost/work") not in found
    cost = found["random", "cost/seconds_explain"]
    assert list(cost.values()) == ["random", "tame", "cost/seconds_explain", "lower", "0.25", "", "", "", "", ""]


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.00"), (1.256, "1.26"), (99.5, "99.50"), (8011.7, "8012")])
def test_multiply_adds(value: float, text: str) -> None:
    assert multiply_adds({"work": value}) == text


def test_csv_leaves_empty_what_means_nothing(tmp_path: Path) -> None:
    table = build_table([make_run(tmp_path, "fake_cam", [0.5])])
    found = {line["measure"]: line for line in csv.DictReader(io.StringIO(csv_text(table)))}
    assert (found["minmax/AD_15"]["value"], found["minmax/AD_15"]["standard_error"]) == ("0.0", "")
    assert (found["rank/AD_15"]["value"], found["rank/AD_15"]["standard_error"]) == ("", "")


def test_latex(tmp_path: Path) -> None:
    text = latex(build_table(three(tmp_path, ALL), reference="gradcam"))
    lines = text.splitlines()
    assert lines[:2] == [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"]
    assert lines[2].startswith(r"\caption{toy (random), 40 images, masking cnn, IC margin 1e-05, ROAD read as ")
    assert text.endswith("\\end{tabular}\n\\end{table}\n")
    assert "worse than Grad-CAM (95 \\% interval). Random: 3 constant" in text
    assert r"method & AD 100 \% & IC 100 \% & AD 15 \% & IC 15 \% & FP & cost \\" in text
    first = r"\underline{25.00} & 50.00"
    assert rf"Grad-CAM & {first} & {first} & 1 + 1 & 1.26 \\" in lines
    assert r"T-TAME & \textbf{5.00}\rlap{$^{+}$} & 50.00 & " in text
    assert r"Random & 55.00\rlap{$^{-}$} & 0.00\rlap{$^{-}$} & " in text
    better, worse = r"\rlap{$^{+}$}", r"\rlap{$^{-}$}"
    road = rf"22.50{better} & 0.00{better} & 22.50{worse} & 0.00{worse}"
    assert rf"Random & {road} & 0 & 0.00 \\" in lines


def test_latex_is_well_formed(tmp_path: Path) -> None:
    name = r"a_b [50%] {c} \d ^e~ <f> #1 & $x$"
    runs = [*three(tmp_path, ALL), make_run(tmp_path / "d", name, HALF, ALL)]
    text = latex(build_table(runs, reference="gradcam"))
    plain = re.sub(r"\\[\\{}&%$#_]", "", text)  # without what is escaped
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    assert not set("%#_~<>") & set(plain)
    bodies = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(bodies) == 4
    for columns, body in bodies:
        lines = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert len(lines) == 5
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 %", r"50 \%"),
        ("a_b & c#d $5", r"a\_b \& c\#d \$5"),
        (r"\x{y}", r"\textbackslash{}x\{y\}"),
        ("[a] ~^ <|>", r"{[}a] \textasciitilde{}\textasciicircum{} \textless{}\textbar{}\textgreater{}"),
        ("grad-cam++", "grad-cam++"),
    ],
)
def test_escaped(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_a_run_alone_bears_no_mark(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name, HALF) for name in ("rise", "all_ones")]
    lines = markdown_lines(build_table(runs))
    assert lines[7:9] == [f"| {name} | tame | 25.00 | 50.00 | 25.00 | 50.00 | 1 | - |" for name in ("RISE", "All ones")]


def test_bars_stay_in_their_cell(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", "a|b", HALF)]
    assert any(line.startswith(r"| a\|b | tame |") for line in markdown_lines(build_table(runs)))


@pytest.mark.parametrize(
    ("passes", "cell"),
    [((8000, 0), "8000"), ((1, 1), "1 + 1 backward"), ((0, 0), "0"), ((12.46, 0.5), "12.5 + 0.5 backward")],
)
def test_passes(tmp_path: Path, passes: tuple[float, float], cell: str) -> None:
    lines = markdown_lines(build_table([make_run(tmp_path, "rise", HALF, passes=passes)]))
    (line,) = (line for line in lines if "| tame |" in line)
    assert line.endswith(f"| {cell} | - |")
