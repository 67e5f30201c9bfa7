"""Runs that are interrupted, killed, or begun twice: they go on image by image, to the same files."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import tame.inference.image_files
from faults import SIZES, call_fails, write_fails_at
from tame.classifier import FrozenClassifier
from tame.inference import Classes, ExplainReport, NamedExplainer, write_explanations
from tame.inference.journal import JOURNAL
from tame.utils.checks import InputError
from tame.utils.folders import FILES, LOCK, locked
from tame.utils.io import WriteError
from test_utils.test_processes import runs

ENOSPC = 28


def bright(images: Tensor, targets: Tensor) -> Tensor:
    return images.mean(1)[:, ::4, ::4]


def dark(images: Tensor, targets: Tensor) -> Tensor:
    return 1 - images.mean(1)[:, ::4, ::4]


class Counting:
    """An explainer that counts its images, and is interrupted before one of them."""

    def __init__(self, explain: Callable[[Tensor, Tensor], Tensor], stop: int | None = None) -> None:
        self.explain, self.stop, self.count = explain, stop, 0

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        if self.stop is not None and self.count >= self.stop:
            raise KeyboardInterrupt
        self.count += len(images)
        return self.explain(images, targets)


@pytest.fixture
def run(toy_classifier: Any, noise_files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExplainReport]:
    """Return ``run(*explainers, **options)``, which explains four images one by one into ``out``."""
    classifier: FrozenClassifier = toy_classifier()
    monkeypatch.setattr("tame.inference.journal.code_hash", lambda code: getattr(code, "explain", code).__name__)

    def run(*explainers: Any, **options: Any) -> ExplainReport:
        methods = [NamedExplainer(classifier, each, f"method{place}", "tame") for place, each in enumerate(explainers)]
        options = {"files": noise_files, "out": "out", "batch_size": 1, "progress": False, **options}
        return write_explanations(options.pop("files"), methods, **options)

    return run


def content(folder: str | Path) -> dict[str, bytes]:
    """Return all files of a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("classes", [Classes(), Classes(top=2)])
def test_an_interrupted_run_explains_only_the_images_that_are_left(
    run: Callable[..., ExplainReport], caplog: pytest.LogCaptureFixture, count: int, classes: Classes
) -> None:
    whole = run(*[bright, dark][:count], out="whole", classes=classes)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 2 * classes.top), *[dark][: count - 1], classes=classes)
    assert (Path("out") / JOURNAL).is_file() and not (Path("out") / "manifest.json").exists()
    rest = Counting(bright)
    with caplog.at_level(logging.INFO, "tame"):
        report = run(rest, *[dark][: count - 1], classes=classes)
    assert rest.count == 2 * classes.top
    assert "2 of 4 images are explained already." in caplog.messages
    assert report == whole
    assert content("out") == content("whole")


def test_a_finished_run_starts_anew_and_so_does_one_that_is_not_to_be_resumed(
    run: Callable[..., ExplainReport],
) -> None:
    run(bright)
    again = Counting(bright)
    run(again)
    assert again.count == 4
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 3))
    again = Counting(bright)
    run(again, resume=False)
    assert again.count == 4


def test_what_has_changed_or_gone_is_explained_again(
    run: Callable[..., ExplainReport], noise_files: list[Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 3))
    Image.open(noise_files[0]).transpose(Image.Transpose.ROTATE_180).save(noise_files[0])
    Path("out", "1.overlay.png").unlink()
    rest = Counting(bright)
    report = run(rest)
    assert rest.count == 3
    assert report == run(bright, out="whole")
    assert content("out") == content("whole")


@pytest.mark.parametrize("changes", [{"classes": Classes((1,))}, {"explainer": dark}])
def test_other_settings_start_over_and_that_is_said(
    run: Callable[..., ExplainReport], caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 3))
    rest = Counting(changes.pop("explainer", bright))
    with caplog.at_level(logging.WARNING, "tame"):
        run(rest, **changes)
    assert rest.count == 4
    assert "out holds an interrupted run with other settings: starting over." in caplog.messages


@pytest.mark.parametrize("damage", ["cut", "words", "empty", "binary", "entries"])
def test_a_damaged_journal_is_explained_again(run: Callable[..., ExplainReport], damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 3))
    path = Path("out", JOURNAL)
    settings, *lines = path.read_text().splitlines()
    damaged = {
        "cut": "\n".join([settings, *lines])[:-40],
        "words": "\n".join([settings, lines[0], "no line", "[1, 2]", '{"file": 3}', "null"]),
        "empty": "",
        "binary": "\0\0",
        "entries": "\n".join([settings, *(json.dumps({**json.loads(line), "entries": "x"}) for line in lines)]),
    }[damage]
    path.write_text(damaged)
    rest = Counting(bright)
    report = run(rest)
    assert rest.count == {"cut": 2, "words": 3}.get(damage, 4)
    assert report == run(bright, out="whole")
    assert content("out") == content("whole")


def test_a_damaged_map_of_an_interrupted_run_with_grids_is_explained_again(run: Callable[..., ExplainReport]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 3), dark)
    (first,) = Path("out", "method1").glob("0.*.npy")
    first.write_bytes(first.read_bytes()[:50])
    rest = Counting(bright)
    run(rest, dark)
    assert rest.count == 2
    run(bright, dark, out="whole")
    assert content("out") == content("whole")


def test_an_image_of_a_damaged_map_that_cannot_be_drawn_any_more_is_only_a_failure(
    run: Callable[..., ExplainReport], noise_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Counting(bright, 1), dark)
    next(Path("out", "method1").glob("0.*.npy")).write_bytes(b"")
    monkeypatch.setattr("tame.inference.write.draw_explanations", lambda row: 1 / 0)
    report = run(bright, dark)
    assert report.entries == [] and [failure.file for failure in report.failures] == list(map(str, noise_files))


@pytest.mark.parametrize("size", SIZES[::3])
def test_a_full_disk_loses_nothing_and_the_same_call_goes_on(run: Callable[..., ExplainReport], size: int) -> None:
    whole = run(bright, out="whole")
    with pytest.raises(WriteError, match="cannot write out/"), write_fails_at(size):
        run(bright)
    assert not list(Path("out").glob("*.tmp"))
    for name, data in content("out").items():
        assert name.startswith(".tame-") or data == content("whole")[name]
    assert run(bright) == whole
    assert content("out") == content("whole")


@pytest.mark.parametrize("name", ["2.overlay.png", ".npy", "manifest.json"])
def test_a_failed_rename_loses_nothing_and_the_same_call_goes_on(run: Callable[..., ExplainReport], name: str) -> None:
    whole = run(bright, out="whole")
    with pytest.raises(WriteError, match="cannot write"), call_fails("replace", name, ENOSPC):
        run(bright)
    assert run(bright) == whole
    assert content("out") == content("whole")


def test_a_killed_worker_is_one_sentence_and_the_same_call_goes_on(
    run: Callable[..., ExplainReport], noise_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(bright, out="whole")  # imports all that draws: torch's error would leave a half imported module
    prepare = tame.inference.image_files.prepare_image

    def end(image: Image.Image, crop: Any, file: str) -> Any:
        return os.kill(os.getpid(), signal.SIGKILL) if file == str(noise_files[2]) else prepare(image, crop, file)

    with monkeypatch.context() as ending, pytest.raises(InputError, match="reads images was ended") as error:
        ending.setattr("tame.inference.image_files.prepare_image", end)
        run(bright, num_workers=1)
    assert "\n" not in str(error.value)
    assert run(bright) == whole
    assert content("out") == content("whole")


def test_a_worker_that_is_killed_while_an_image_is_drawn_is_no_failure_of_that_image(
    run: Callable[..., ExplainReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(row: Any) -> Any:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    with monkeypatch.context() as ending, pytest.raises(InputError, match="reads images was ended"):
        ending.setattr("tame.inference.write.draw_explanations", draw)
        run(bright)
    assert len(run(bright).entries) == 4


# --- folders of others


def test_a_folder_that_another_process_writes_to_is_refused(run: Callable[..., ExplainReport]) -> None:
    with locked(Path("out")), pytest.raises(InputError, match="out is in use by process"):
        run(bright)
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("own", "count"),
    [
        ("0.overlay.png", 1),
        ("1.285.npy", 1),
        ("manifest.json", 1),
        ("manifest.json", 2),
        ("grid.png", 2),
        ("method0/notes.txt", 2),
    ],
)
def test_the_users_own_files_are_not_replaced(run: Callable[..., ExplainReport], own: str, count: int) -> None:
    Path("out", own).parent.mkdir(parents=True)
    Path("out", own).write_text("[1]")
    with pytest.raises(InputError, match="which no run wrote: choose another output folder"):
        run(*[bright, dark][:count])
    assert content("out") == {own: b"[1]"}


def test_files_of_the_user_beside_ours_stay(run: Callable[..., ExplainReport]) -> None:
    Path("out").mkdir()
    for name in ("notes.txt", "cat.285.npy", "5.overlay.png"):
        Path("out", name).write_text("mine")
    run(bright)
    run(bright)
    assert all(Path("out", name).read_text() == "mine" for name in ("notes.txt", "cat.285.npy", "5.overlay.png"))


def test_a_folder_of_explanations_from_before_is_written_to(run: Callable[..., ExplainReport]) -> None:
    """It has a manifest of explanations, and no note of whose files are there."""
    run(bright)
    Path("out", FILES).unlink()
    assert len(run(dark).entries) == 4


def test_files_get_the_mode_of_new_files(run: Callable[..., ExplainReport]) -> None:
    before = os.umask(0o027)
    try:
        run(bright, dark)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in Path("out").rglob("*") if path.is_file()}
    assert len(modes) > 8 and set(modes.values()) == {"0o640"}


# --- kills


def explain(folder: Path, out: str, methods: str, workers: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(tame.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    arguments = ["explain", "photos", "--backbone", "squeezenet1_1", "--weights", "random", "--device", "cpu"]
    more = ["--method", methods, "--batch-size", "2", "--out", out, "--num-workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "tame", *arguments, *more],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def children(pid: int) -> Sequence[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc, to find processes")
@pytest.mark.parametrize(("methods", "workers"), [("gradcam", 2), ("gradcam,random", 0)])
def test_a_killed_run_leaves_no_process_and_its_rerun_no_other_file(tmp_path: Path, methods: str, workers: int) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(24):
        noise = np.random.default_rng(index).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).resize((800, 600)).save(tmp_path / "photos" / f"{index:02}.png")
    assert explain(tmp_path, "whole", methods, workers).wait(300) == 0
    whole = content(tmp_path / "whole")
    killed = 0
    for overlays in (3, 9, 17):
        process = explain(tmp_path, "out", methods, workers)
        while process.poll() is None and len(list((tmp_path / "out").rglob("*.overlay.png"))) < overlays:
            time.sleep(0.01)
        started = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        until = time.monotonic() + 30
        while any(map(runs, started)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(runs, started))
    assert killed == 3 and (tmp_path / "out" / LOCK).exists()
    process = explain(tmp_path, "out", methods, workers)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "of 24 images are explained already." in errors
    assert content(tmp_path / "out") == whole
