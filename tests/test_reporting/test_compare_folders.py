"""Folders of comparisons: files of others, two at once, damaged files, full disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from faults import assert_nothing_lost, call_fails, write_fails_at
from finished_runs import ALL, three
from small_runs import cells, names, numbers
from tame.checkpoints.classifier import load_classifier
from tame.evaluation.records import open_run
from tame.explainers.cams import GradCAM
from tame.reporting.compare import compare
from tame.reporting.table import table
from tame.utils.checks import InputError
from tame.utils.folders import FILES, locked
from tame.utils.io import WriteError

Run = Callable[..., Any]
TABLES = ["table.csv", "table.md", "table.tex"]


@pytest.fixture
def run(toy_backbone: str, photographs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Compares two methods of the toy on five images, in the folder ``out`` of the working folder."""
    monkeypatch.chdir(tmp_path)
    asked = {"data": photographs, "limit_images": 5, "out": "out", "progress": False, "batch_size": 3}
    return lambda *methods, **changes: compare(
        methods or ("centre", "gradcam"), load_classifier(toy_backbone, device="cpu"), **asked | changes
    )


@pytest.mark.parametrize("name", ["table.md", "road.png", "report.html", "gradcam/rows.csv", "gradcam/parts/x"])
def test_files_of_others_are_refused_before_any_work(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradCAM, "explain", lambda *_: pytest.fail("explained"))
    (Path("out") / name).parent.mkdir(parents=True)
    (Path("out") / name).write_text("mine")
    with pytest.raises(InputError, match=r", which no run wrote: choose another output folder \(out\)"):
        run("gradcam", "centre", metrics=["road"], report="out")
    assert (Path("out") / name).read_text() == "mine"
    assert not list(Path("out").rglob(".tame-lock")) and not list(Path("out").rglob("parts/0*"))


def test_files_of_others_that_no_run_writes_are_kept(run: Run) -> None:
    Path("out").mkdir()
    for name in ("notes.md", "road.png"):  # without ROAD there is no picture
        (Path("out") / name).write_text("mine")
    run(report="out", report_images=1)
    run(report="out", report_images=2)  # its own files are replaced
    assert names(Path("out")) == ["centre", "gradcam", "notes.md", "report.html", "road.png", *TABLES]
    assert (Path("out") / "road.png").read_text() == (Path("out") / "notes.md").read_text() == "mine"


def test_other_settings_of_the_last_method_are_refused_before_the_first_is_evaluated(run: Run) -> None:
    run("gradcam", steps=4, metrics=["deletion"])
    with pytest.raises(InputError, match="gradcam holds a run with other settings: steps 4, not 5"):
        run("centre", "gradcam", steps=5, metrics=["deletion"])
    assert not (Path("out") / "centre" / "rows.csv").exists()


@pytest.mark.parametrize("folder", ["out", "out/gradcam"])
def test_a_second_comparison_in_the_same_folder_is_refused(run: Run, folder: str) -> None:
    with locked(Path(folder)), pytest.raises(InputError, match=f"{folder} is in use by process {os.getpid()} on "):
        run()
    assert not list(Path("out").rglob("rows.csv"))
    assert run()["images"].tolist() == [5, 5]


def test_a_report_goes_to_no_folder_of_a_run(run: Run) -> None:
    with pytest.raises(InputError, match="a folder for the report that is none of a method, got out/gradcam"):
        run(report="out/gradcam")


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"text", "half", "wide", "pickle"])
def test_a_damaged_map_of_the_report(run: Run, damage: bytes | str) -> None:
    asked = {"report": "page", "report_images": 2}
    run(**asked)
    before, look = Path("page/report.html").read_bytes(), sorted(Path("out/gradcam/looks").iterdir())[0]
    if isinstance(damage, bytes):
        look.write_bytes(damage)
    elif damage == "half":
        look.write_bytes(look.read_bytes()[:-7])
    else:
        np.save(look, np.ones((1, 2, 2)) if damage == "wide" else np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=f"^{look} is damaged: .* Delete it and start the evaluation again"):
        run(**asked)
    look.unlink()
    run(**asked)
    assert Path("page/report.html").read_bytes() == before


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(run: Run) -> None:
    asked: dict[str, Any] = {"metrics": ["deletion"], "steps": 2, "report": "page", "report_images": 1}
    whole, failed = run(**asked, out="whole"), 0
    while True:
        try:
            with call_fails("fsync", "/out/", errno.ENOSPC, after=failed % 5):
                run(**asked)
            break
        except WriteError:
            failed += 1
    assert failed >= 8
    for size in (0, 100, 5000):
        with write_fails_at(size), pytest.raises(WriteError):
            run(**asked)
    pd.testing.assert_frame_equal(run(**asked), whole)
    for method in ("centre", "gradcam"):
        one, other = (Path(out) / method for out in ("out", "whole"))
        assert numbers(open_run(one).summary) == numbers(open_run(other).summary) and cells(one) == cells(other)
    assert names(Path("out")) == names(Path("whole")) == ["centre", "gradcam", *TABLES]
    assert not [path for path in Path("out").rglob(".*") if path.name != FILES]


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    runs, out = three(tmp_path / "runs", ALL), tmp_path / "table.csv"
    out.write_text("earlier")
    assert assert_nothing_lost(lambda: table(runs, format="csv", out=out), [out]) >= 15


@pytest.mark.slow
def test_curves_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    runs = three(tmp_path / "runs", ALL)
    paths = [tmp_path / f"curves.{kind}" for kind in ("png", "pdf")]
    paths[0].write_bytes(b"earlier")
    assert assert_nothing_lost(lambda: table(runs, curves=tmp_path / "curves"), paths, [0, 300, 9000]) >= 7
