"""Rows and summaries on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tame.checks import InputError
from tame.evaluation.records import (
    Estimate,
    Row,
    Rows,
    Summary,
    image_scores,
    join_rows,
    read_rows,
    read_run,
    read_summary,
    score_columns,
    summarise,
    write_rows,
    write_summary,
)

ROWS: list[Row] = [
    {
        "index": index,
        "file": f'folder, "{index}"/é.jpg',
        "label": 7 if index else "",
        "correct_top1": 1 if index == 1 else 0 if index else "",
        "correct_top5": 1 if index else "",
        "p": p,
        "minmax_p_50": masked,
        "constant": int(index == 1),
        "invalid": int(index == 2),
    }
    for index, (p, masked) in enumerate([(0.5, 0.25), (1 / 3, 0.1 + 0.2), (1e-45, 5e-324)])
]
SETTINGS = {"scalings": ["minmax"], "keeps": [0.5], "ic_margin": 1e-5}


def test_rows_to_the_last_digit(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    rows = read_rows(tmp_path / "rows.csv")
    assert rows.files == [row["file"] for row in ROWS]
    for name in ("p", "minmax_p_50", "index", "constant"):
        assert rows.columns[name].tolist() == [row[name] for row in ROWS]
    assert math.isnan(rows.columns["label"][0]) and rows.columns["label"][1] == 7


def test_parts_join_to_what_was_written_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.csv", ROWS)
    for number, row in enumerate(ROWS):
        write_rows(tmp_path / f"{number}.csv", [row])
    join_rows([tmp_path / f"{number}.csv" for number in range(3)], tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    before = (tmp_path / "rows.csv").read_bytes()
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_rows(tmp_path / "rows.csv", [ROWS[0], {"unknown": 1}])
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_image_scores_by_hand() -> None:
    rows = Rows(["a", "b"], {"p": np.array([0.5, 0.4]), "rank_p_15": np.array([0.25, 0.5])})
    scores = image_scores(rows, "rank", 0.15, 0.0)
    assert scores["AD"].tolist() == [50.0, 0.0]
    assert scores["IC"].tolist() == [0.0, 100.0]


def test_summary_by_hand(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS[:2])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    dropped = 100 * (1 / 3 - (0.1 + 0.2)) / (1 / 3)
    assert summary.metrics["minmax/AD_50"].value == pytest.approx((50 + dropped) / 2)
    assert summary.metrics["minmax/AD_50"].standard_error == pytest.approx(abs(50 - dropped) / 2)
    assert summary.metrics["minmax/IC_50"] == (0.0, 0.0)
    assert (summary.images, summary.constant, summary.invalid, summary.labelled) == (2, 1, 0, 1)
    assert summary.accuracy == {"top1": 100.0, "top5": 100.0}


def test_summary_without_labels(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS[:1])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    assert summary.accuracy == {} and summary.labelled == 0


def test_summary_there_and_back(tmp_path: Path) -> None:
    summary = Summary(
        settings={"method": "gradcam", "overrides": {"masking": "cnn"}},
        images=1,
        constant=0,
        invalid=0,
        labelled=0,
        accuracy={},
        metrics={"minmax/AD_100": Estimate(1 / 3, math.nan)},
    )
    write_summary(tmp_path / "summary.json", summary)
    again = read_summary(tmp_path / "summary.json")
    assert again.metrics["minmax/AD_100"].value == 1 / 3
    assert math.isnan(again.metrics["minmax/AD_100"].standard_error)
    assert (again.settings, again.images) == (summary.settings, summary.images)
    assert "NaN" not in (tmp_path / "summary.json").read_text()  # JSON knows none


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the summary of a finished evaluation, got no file .*summary.json"):
        read_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": {}}))
    with pytest.raises(InputError, match="is no summary of an evaluation: .*missing"):
        read_summary(tmp_path / "summary.json")
    with pytest.raises(InputError, match=r"expected the rows of an evaluation, got no file .*rows.csv"):
        read_rows(tmp_path / "rows.csv")
    for text, wrong in (("file,a\nx,1\n", "'p'"), ("file,p\nx,half\n", "half"), ("file,p\nx\n", "NoneType")):
        (tmp_path / "rows.csv").write_text(text)
        with pytest.raises(InputError, match=f"holds no rows of an evaluation: cannot read .*{wrong}"):
            read_rows(tmp_path / "rows.csv")
    with pytest.raises(InputError, match=r"expected different scalings and keeps, got .* and \[0.5, 0.5\]"):
        score_columns(["minmax"], [0.5, 0.5])
