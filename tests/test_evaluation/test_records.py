"""Rows and summaries on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tame.evaluation.records import (
    Estimate,
    Summary,
    open_run,
    read_run,
    read_summary,
    summarise,
    upgraded,
    write_summary,
)
from tame.evaluation.rows import Row, counted, join_rows, read_rows, write_rows
from tame.utils.checks import InputError

ROWS: list[Row] = [
    {
        "index": index,
        "file": f'folder, "{index}"/é\udcff\n.jpg',
        "label": 7 if index else "",
        "correct_top1": 1 if index == 1 else 0 if index else "",
        "correct_top5": 1 if index else "",
        "p": p,
        "counted": 1,
        "minmax_50_p": masked,
        "constant": int(index == 1),
        "invalid": int(index == 2),
        "explain_forward": 2 * index,
        "explain_backward": index,
        "seconds_explain": 0.25,
        "seconds_perturb": 0.5 * index,
        "seconds_classify": 1.0,
    }
    for index, (p, masked) in enumerate([(0.5, 0.25), (1 / 3, 0.1 + 0.2), (1e-45, 5e-324)])
]
SETTINGS = {"metrics": ["ad-ic"], "scalings": ["minmax"], "keeps": [0.5], "ic_margin": 1e-5}
UNCOUNTED = {
    name: 0 if name == "counted" else "" if name in list(ROWS[0])[7:] else cell for name, cell in ROWS[2].items()
}


def test_rows_to_the_last_digit(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    rows = read_rows(tmp_path / "rows.csv")
    assert rows.files == [row["file"] for row in ROWS]
    for name in ("p", "minmax_50_p", "index", "constant"):
        assert rows.columns[name].tolist() == [row[name] for row in ROWS]
    assert math.isnan(rows.columns["label"][0]) and rows.columns["label"][1] == 7


def test_parts_join_in_the_order_of_the_list(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.csv", ROWS)
    for number, row in enumerate(ROWS):
        write_rows(tmp_path / f"{number}.csv", [row])
    join_rows([tmp_path / f"{number}.csv" for number in (2, 0, 1)], tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()


def test_an_image_that_two_parts_hold_counts_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "0.csv", ROWS[:2])
    write_rows(tmp_path / "1.csv", ROWS[1:])
    join_rows([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "joined.csv")
    assert read_rows(tmp_path / "joined.csv").columns["index"].tolist() == [0, 1, 2]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    before = (tmp_path / "rows.csv").read_bytes()
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_rows(tmp_path / "rows.csv", [ROWS[0], {"unknown": 1}])
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_summary_by_hand(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS[:2])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    dropped = 100 * (1 / 3 - (0.1 + 0.2)) / (1 / 3)
    assert summary.metrics["minmax/AD_50"].value == pytest.approx((50 + dropped) / 2)
    assert summary.metrics["minmax/AD_50"].standard_error == pytest.approx(abs(50 - dropped) / 2)
    assert summary.metrics["minmax/IC_50"] == summary.metrics["minmax/AG_50"] == (0.0, 0.0)
    assert (summary.images, summary.constant, summary.invalid, summary.labelled) == (2, 1, 0, 1)
    assert summary.accuracy == {"top1": 100.0, "top5": 100.0}
    assert summary.cost == {
        "explain_forward": 1,
        "explain_backward": 0.5,
        "seconds_explain": 0.25,
        "seconds_perturb": 0.25,
        "seconds_classify": 1,
    }
    assert summary.settings == SETTINGS


def test_accuracy_is_of_all_images_with_a_label_the_rest_of_those_that_count(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [*ROWS[:2], UNCOUNTED])
    rows = read_rows(tmp_path / "rows.csv")
    summary = summarise(rows, SETTINGS)
    assert (summary.images, summary.labelled, summary.invalid) == (2, 2, 0)
    assert summary.accuracy == {"top1": 50.0, "top5": 100.0}
    alone = summarise(counted(rows), SETTINGS)
    assert summary.metrics == alone.metrics and summary.cost == alone.cost
    assert counted(rows).files == rows.files[:2]
    assert math.isnan(rows.columns["minmax_50_p"][2])


def test_images_without_a_finite_confidence_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "rows.csv", [ROWS[0], {**ROWS[1], "file": "broken.jpg", "minmax_50_p": math.nan}])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    assert (summary.images, summary.undefined) == (2, 1)
    assert all(math.isnan(summary.metrics[f"minmax/{name}_50"].value) for name in ("AD", "IC", "AG"))
    assert caplog.messages == [
        "the classifier gives no finite confidence for 1 of 2 images (broken.jpg): means over them are not numbers"
    ]


def test_summary_without_labels(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS[:1])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    assert summary.accuracy == {} and summary.labelled == 0


def test_no_image_that_counts(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [UNCOUNTED, UNCOUNTED])
    with pytest.raises(InputError, match="expected at least one image that counts, got none of 2"):
        summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)


def test_summary_there_and_back(tmp_path: Path) -> None:
    summary = Summary(
        settings={"method": "gradcam", "overrides": {"masking": "cnn"}},
        images=1,
        constant=0,
        invalid=0,
        labelled=0,
        accuracy={},
        cost={"explain_forward": 1.0},
        metrics={"minmax/AD_100": Estimate(1 / 3, math.nan)},
    )
    write_summary(tmp_path / "summary.json", summary)
    again = read_summary(tmp_path / "summary.json")
    assert again.metrics["minmax/AD_100"].value == 1 / 3
    assert math.isnan(again.metrics["minmax/AD_100"].standard_error)
    assert (again.settings, again.images, again.cost) == (summary.settings, summary.images, summary.cost)
    assert "NaN" not in (tmp_path / "summary.json").read_text()  # JSON knows none


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected the summary of a finished evaluation, got no file .*summary.json"):
        open_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": {"minmax/AD_100": {"value": [], "error": 1.0}}}))
    with pytest.raises(InputError, match="summary.json is damaged: it is no summary of an evaluation: .*float"):
        open_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": {}}))
    with pytest.raises(InputError, match="summary.json is damaged: it is no summary of an evaluation: .*missing"):
        read_summary(tmp_path / "summary.json")
    with pytest.raises(InputError, match=r"expected the rows of an evaluation, got no file .*rows.csv"):
        read_rows(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it lacks the columns counted, file, index, p"),
        (b"file,a\nx,1\n", "it lacks the columns counted, index, p"),
        (b"index,file,p,counted\n", "it has no rows"),
        (b"index,file,p,counted\n0,x,0.25,1\n1,y,0.5", "its last line is cut"),
        (b"index,file,p,counted\n0,x,half,1\n", "could not convert string to float: 'half'"),
        (b"index,file,p,counted\n0,x\n", "row 1 has another number of cells than columns"),
        (b"index,file,p,counted\n0,x,1,1,1\n", "row 1 has another number of cells than columns"),
        (b"index,file,p,counted\n-1,x,1,1\n", "the index of row 1 is '-1'"),
        (b"index,file,p,counted\n0.5,x,1,1\n", "the index of row 1 is '0.5'"),
        (b'index,file,p,counted\n0,"x\n', "unexpected end of data"),
        (b"index,file,p,counted\n0," + b"x" * 200_000 + b",1,1\n", r"field larger than field limit \(131072\)"),
        (b"\x00\xff\x7fELF\x01\n\x89PNG\n", "it lacks the columns counted, file, index, p"),
    ],
)
def test_damaged_rows_are_told_with_the_file_and_the_way_out(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path} is damaged: {reason}. Delete it and start the evaluation again"):
        read_rows(path)


def test_parts_of_other_columns_are_not_joined(tmp_path: Path) -> None:
    write_rows(tmp_path / "0.csv", ROWS[:1])
    write_rows(tmp_path / "1.csv", [{**ROWS[1], "rank_50_p": 0.5}])
    with pytest.raises(InputError, match="1.csv is damaged: its columns are not those of the other parts. Delete it"):
        join_rows([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "rows.csv")


# --- a row per image as a DataFrame


def test_a_run_as_a_frame(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [*ROWS[:2], UNCOUNTED])
    summary = summarise(read_rows(tmp_path / "rows.csv"), SETTINGS)
    write_summary(tmp_path / "summary.json", summary)
    frame = read_run(tmp_path)
    assert frame.index.tolist() == [0, 1, 2] and frame.index.name == "index"
    assert frame["file"].tolist() == [row["file"] for row in ROWS]
    assert frame["p"].tolist() == [row["p"] for row in ROWS]  # to the last digit
    assert frame["label"].isna().tolist() == [True, False, False] and frame["label"][1] == 7
    assert str(frame["label"].dtype) == str(frame["counted"].dtype) == "Int64"
    assert frame["minmax_50_p"].isna().tolist() == [False, False, True]
    assert frame["minmax/AD_50"].mean() == summary.metrics["minmax/AD_50"].value
    assert frame.attrs["summary"] == open_run(tmp_path).summary.as_dict()
    assert frame.attrs["summary"]["metrics"]["minmax/AD_50"]["value"] == summary.metrics["minmax/AD_50"].value
    with pytest.raises(InputError, match="expected the summary of a finished evaluation, got no file"):
        read_run(tmp_path / "nowhere")


# --- runs of earlier versions

OLD_SUMMARY = """{
  "settings": {
    "method": "rise",
    "preset": "tame",
    "rise_masks": 20,
    "overrides": {
      "masking": "cnn",
      "rise_masks": 20
    },
    "list": "Evaluation.txt",
    "list_sha256": "5c01",
    "only": "all",
    "precision": "32",
    "backbone": "efficientnet_lite0",
    "weights": "imagenet",
    "weights_sha256": "9151",
    "layers": ["_blocks.4", "_blocks.10", "_blocks.15"],
    "metrics": ["ad-ic"],
    "scalings": ["minmax"],
    "keeps": [1.0],
    "masking": "cnn",
    "ic_margin": 1e-05,
    "versions": {"python": "3.11.7", "tame": "0.1.0", "torch": "2.15.0"}
  },
  "images": 2,
  "constant": 0,
  "invalid": 0,
  "labelled": 2,
  "accuracy": {"top1": 50.0, "top5": 100.0},
  "cost": {
    "explain_forward": 20.0,
    "explain_backward": 0.0,
    "seconds_explain": 1.5,
    "seconds_perturb": 0.25,
    "seconds_classify": 0.5,
    "work": 20.5
  },
  "metrics": {
    "minmax/AD_100": {"value": 25.0, "standard_error": 25.0},
    "minmax/IC_100": {"value": 50.0, "standard_error": 50.0},
    "minmax/AG_100": {"value": 25.0, "standard_error": 25.0}
  }
}
"""  # as the version before `arguments` wrote it
OLD_ROWS = """index,file,label,target,correct_top1,correct_top5,p,counted,minmax_100_p,constant,invalid,\
explain_forward,explain_backward,seconds_explain,seconds_perturb,seconds_classify
0,n01/a.JPEG,7,7,1,1,0.5,1,0.25,0,0,20.0,0.0,1.5,0.25,0.5
1,n02/b.JPEG,3,9,0,1,0.5,1,0.75,0,0,20.0,0.0,1.5,0.25,0.5
""".replace("\\\n", "")


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(OLD_SUMMARY)
    (tmp_path / "rows.csv").write_text(OLD_ROWS)
    run = open_run(tmp_path)
    assert run.summary.settings["arguments"] == {"masks": 20} and "rise_masks" not in run.summary.settings
    assert run.summary.settings["overrides"] == {"masking": "cnn", "masks": 20}
    again = summarise(run.rows, run.summary.settings, work=20.5)
    assert again == run.summary  # every number
    assert read_run(tmp_path)["minmax/AD_100"].tolist() == [50, 0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"method": "gradcam", "overrides": {}}, {"method": "gradcam", "overrides": {}}),
        (
            {"method": "gradcam", "cam_layer": "stage2", "overrides": {}},
            {"method": "gradcam", "overrides": {"layer": "stage2"}, "arguments": {"layer": "stage2"}},
        ),
        (
            {"arguments": {"masks": 3}, "overrides": {"masks": 3}},
            {"arguments": {"masks": 3}, "overrides": {"masks": 3}},
        ),
        ({"cam_layer": "a"}, {"overrides": {"layer": "a"}, "arguments": {"layer": "a"}}),
    ],
)
def test_settings_of_earlier_versions_have_todays_keys(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = json.dumps(old)
    assert upgraded(old) == new and json.dumps(old) == before
