"""Folders of runs: files of others, damaged files, two runs at once, full disks; nothing is lost or silently wrong."""

from __future__ import annotations

import errno
import json
import re
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from faults import call_fails, write_fails_at
from small_runs import COUNT, Interrupted, cells, maps_by, names, numbers
from small_runs import run as run_with
from tame.classifier import FrozenClassifier
from tame.evaluation.records import Summary, open_run, read_run
from tame.metrics import MaskedConfidence
from tame.reporting.table import table
from tame.utils.checks import InputError
from tame.utils.folders import FILES, LOCK, claim
from tame.utils.io import WriteError

Make = Callable[..., FrozenClassifier]


def run(classifier: FrozenClassifier, out: Path, **changes: Any) -> Summary:
    return run_with(classifier, out, (MaskedConfidence(masking="cnn"),), **changes)


@pytest.fixture
def whole(toy_classifier: Make, tmp_path: Path) -> Path:
    """A finished run."""
    run(toy_classifier(), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def cut(toy_classifier: Make, tmp_path: Path) -> Path:
    """A run that was interrupted after two batches."""
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path / "cut", stop=14)
    return tmp_path / "cut"


def asked_by(classifier: FrozenClassifier, out: Path) -> list[int]:
    """Run, and return the positions of the images that are explained meanwhile."""
    asked: list[int] = []
    inner = maps_by(classifier, "gradcam")

    def explain(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    run(classifier, out, maps_of=explain)
    return asked


def assert_equal(one: Path, other: Path) -> None:
    assert numbers(open_run(one).summary) == numbers(open_run(other).summary)
    assert cells(one) == cells(other)
    assert names(one) == names(other) == ["rows.csv", "settings.json", "summary.json"]


# --- two at once


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_is_right(
    toy_classifier: Make, whole: Path, tmp_path: Path
) -> None:
    """Whenever the second starts: before the first batch, between two, and while the first one joins its rows."""
    classifier, second = toy_classifier(), toy_classifier()
    maps, refused = maps_by(classifier, "gradcam"), []

    def explain(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        if len(images) > 1:  # the first call measures its cost
            for changes in ({}, {"resume": False}, {"method": "random"}):
                with pytest.raises(InputError) as error:
                    run(second, tmp_path / "both", **changes)  # type: ignore[arg-type]
                refused.append(str(error.value))
        return maps(images, targets, indices)

    run(classifier, tmp_path / "both", maps_of=explain)
    assert len(refused) == 3 * 4
    for text in refused:
        assert re.fullmatch(r".*both is in use by process \d+ on .*: wait until that has ended, or choose .*", text)
    assert_equal(tmp_path / "both", whole)
    run(second, tmp_path / "both", stop=0)  # it is finished


def test_many_at_once_are_right_or_refused(toy_classifier: Make, whole: Path, tmp_path: Path) -> None:
    classifiers, outcomes = [toy_classifier() for _ in range(4)], []
    maps = [maps_by(classifier, "gradcam") for classifier in classifiers]
    start = threading.Barrier(4, timeout=60)

    def one(index: int) -> None:
        start.wait()
        try:
            summary = run(classifiers[index], tmp_path / "all", maps_of=maps[index])
            outcomes.append(numbers(summary) == numbers(open_run(whole).summary))
        except InputError as error:
            outcomes.append("in use by process" in str(error))

    threads = [threading.Thread(target=one, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 4
    assert_equal(tmp_path / "all", whole)


def test_a_run_whose_folder_another_one_took_over_does_not_join_its_rows(toy_classifier: Make, tmp_path: Path) -> None:
    classifier = toy_classifier()
    maps = maps_by(classifier, "gradcam")

    def explain(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        (tmp_path / "run" / LOCK).write_text("as another machine writes it")
        return maps(images, targets, indices)

    with pytest.raises(InputError, match="another process has taken over .*run; what this one finished is kept"):
        run(classifier, tmp_path / "run", maps_of=explain)
    assert not (tmp_path / "run" / "rows.csv").exists()
    assert len(list((tmp_path / "run" / "parts").glob("*.csv"))) == 4


# --- rows that are not the list's


@pytest.mark.parametrize("kept", [range(7), range(21, 23), [*range(7), *range(14, 21)]])
def test_rows_that_are_not_all_of_the_list_are_completed(
    toy_classifier: Make, whole: Path, tmp_path: Path, kept: list[int]
) -> None:
    """As two runs at once left them: a summary of fewer rows, which says that it is of all."""
    out = whole
    lines = (out / "rows.csv").read_text().splitlines(keepends=True)
    (out / "rows.csv").write_text("".join([lines[0], *(lines[1 + index] for index in kept)]))
    summary = json.loads((out / "summary.json").read_text())
    del summary["rows_sha256"]
    (out / "summary.json").write_text(json.dumps(summary | {"images": len(kept)}))
    if kept != range(7):  # which might be those of a list of seven
        with pytest.raises(InputError, match=r"rows.csv is damaged: it does not hold the images of the summary, once"):
            read_run(out)
    assert asked_by(toy_classifier(), out) == [
        0,
        *(index for index in range(COUNT) if index not in kept),
    ]  # the first one for its work
    run(toy_classifier(), tmp_path / "again")
    assert_equal(out, tmp_path / "again")


def test_rows_that_changed_after_the_summary_are_refused(toy_classifier: Make, whole: Path) -> None:
    text = (whole / "rows.csv").read_text()
    (whole / "rows.csv").write_text(text.replace("01.jpg", "1.jpg"))
    message = "rows.csv is damaged: it is not the file that the summary was computed from. Delete it and start the"
    for read in (open_run, read_run, lambda folder: table([folder]), lambda folder: run(toy_classifier(), folder)):
        with pytest.raises(InputError, match=message):
            read(whole)
    (whole / "rows.csv").write_text(text)
    assert open_run(whole).summary.images == COUNT


@pytest.mark.parametrize("text", ["0,x.jpg", "99,00.jpg"])
def test_rows_of_other_images_are_refused(toy_classifier: Make, cut: Path, text: str) -> None:
    part = cut / "parts" / "0-000001.csv"
    part.write_text(part.read_text().replace("7,07.jpg", text))
    with pytest.raises(InputError, match="0-000001.csv is damaged: it holds rows of images that are not in the list"):
        run(toy_classifier(), cut)


def test_a_part_that_is_deleted_is_evaluated_again_and_no_other_is_replaced(
    toy_classifier: Make, whole: Path, cut: Path
) -> None:
    (cut / "parts" / "0-000000.csv").unlink()
    assert asked_by(toy_classifier(), cut) == [*range(7), *range(14, COUNT)]
    assert_equal(cut, whole)


# --- damaged files

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-2],
    "of another program": lambda _: b'{"method": 1, "versions": 3, "metrics": 7, "work": [], "rows": "many"}\n',
    "a list": lambda _: b"[1, 2]\n",
    "binary": lambda _: bytes(range(256)),
    "deep": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["settings.json", "parts/0-000001.csv", "parts/work.json", "parts/0-pass-rows.json"])
def test_damaged_files_of_an_interrupted_run(
    toy_classifier: Make, cut: Path, whole: Path, name: str, damage: str
) -> None:
    content = (cut / name).read_bytes()
    (cut / name).write_bytes(DAMAGES[damage](content))
    with pytest.raises(InputError, match=Path(name).name if name != "settings.json" else "cut") as error:
        run(toy_classifier(), cut)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and ("Delete it" in message or "start over (resume false)" in message)
    assert not (cut / LOCK).exists()
    if "Delete it" in message:
        (cut / name).unlink()
        run(toy_classifier(), cut)
    else:
        run(toy_classifier(), cut, resume=False)
    assert_equal(cut, whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["settings.json", "rows.csv", "summary.json", FILES])
def test_damaged_files_of_a_finished_run(
    toy_classifier: Make, tmp_path: Path, whole: Path, name: str, damage: str
) -> None:
    run(toy_classifier(), tmp_path / "run")
    out, content = tmp_path / "run", (whole / name).read_bytes()
    (out / name).write_bytes(DAMAGES[damage](content))
    with pytest.raises(InputError, match=name if name != "settings.json" else "run") as error:
        run(toy_classifier(), out)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and ("Delete it" in message or "(out)" in message)
    if name in ("rows.csv", "summary.json"):
        with pytest.raises(InputError, match=f"{name}.*Delete it and start the evaluation again"):
            table([out])
        (out / name).unlink()
        run(toy_classifier(), out)
        assert_equal(out, whole)
    elif name == "settings.json":
        run(toy_classifier(), out, resume=False)
        assert_equal(out, whole)


# --- files of others


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    "name", ["rows.csv", "summary.json", "settings.json", "parts/mine.csv", "parts/0-000000.csv", "looks/0-1.npy"]
)
def test_files_of_others_are_refused_and_kept(toy_classifier: Make, tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"method": 1, "metrics": [], "versions": []}')
    shown = name if "/" not in name else f"{name.partition('/')[0]}/"
    with pytest.raises(InputError, match=rf"holds {shown}, which no run wrote: choose another output folder \(out\)$"):
        run(toy_classifier(), tmp_path, resume=resume, stop=0)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [name]
    assert (tmp_path / name).read_text() == '{"method": 1, "metrics": [], "versions": []}'


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("claimed", [True, False])
def test_settings_of_another_kind_of_run_are_kept(
    toy_classifier: Make, tmp_path: Path, resume: bool, claimed: bool
) -> None:
    """As of a training in the same folder, whose manifest names them."""
    text = '{"attention": "ttame", "versions": {"tame": "0.1.0"}}'
    (tmp_path / "settings.json").write_text(text)
    if claimed:
        claim(tmp_path, ["settings.json"], known=True)
    with pytest.raises(InputError, match=r"holds settings.json of another kind of run: choose another output folder"):
        run(toy_classifier(), tmp_path, resume=resume)
    assert (tmp_path / "settings.json").read_text() == text


def test_files_beside_and_between_those_of_a_run_are_kept(toy_classifier: Make, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Interrupted):
        run(toy_classifier(), tmp_path, stop=14)
    (tmp_path / "looks").mkdir()
    mine = [tmp_path / "parts" / "mine.csv", tmp_path / "looks" / "mine.npy", tmp_path / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    (tmp_path / "looks" / "0-1.npy").write_text("ours")
    run(toy_classifier(), tmp_path, resume=False)
    run(toy_classifier(), tmp_path)
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert names(tmp_path / "parts") == ["mine.csv"] and names(tmp_path / "looks") == ["mine.npy"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_before_there_were_manifests_is_known(toy_classifier: Make, tmp_path: Path, finished: bool) -> None:
    if finished:
        run(toy_classifier(), tmp_path)
    else:
        with pytest.raises(Interrupted):
            run(toy_classifier(), tmp_path, stop=14)
    (tmp_path / FILES).unlink()
    assert asked_by(toy_classifier(), tmp_path) == ([] if finished else list(range(14, COUNT)))
    (tmp_path / FILES).unlink(missing_ok=True)
    assert run(toy_classifier(), tmp_path, resume=False).images == COUNT


# --- full and read-only disks


def test_a_finished_run_is_read_where_nothing_can_be_written(toy_classifier: Make, whole: Path) -> None:
    with call_fails("open", "whole", errno.EROFS):
        assert run(toy_classifier(), whole, stop=0) == open_run(whole).summary
        with pytest.raises(WriteError, match=r"cannot write .*\.tame-lock: Read-only file system \(EROFS\)"):
            run(toy_classifier(), whole, resume=False)
    assert open_run(whole).summary.images == COUNT


def test_whichever_write_fails_the_next_run_ends_with_the_same_numbers(
    toy_classifier: Make, whole: Path, tmp_path: Path
) -> None:
    """Each of all writes of a run fails once, in one folder: 12 faults in a row lose nothing that was finished."""
    classifier, out, failed = toy_classifier(), tmp_path / "run", 0
    for after in count():
        try:
            with call_fails("fsync", "/run/", errno.ENOSPC, after % 4):
                run(classifier, out)
            break
        except WriteError as error:
            failed += 1
            assert "No space left on device (ENOSPC)" in str(error) and "\n" not in str(error)
            assert not [path for path in out.rglob(".*") if path.name != FILES]
    assert failed >= 6
    assert_equal(out, whole)


@pytest.mark.parametrize("size", [0, 1, 30, 100, 300, 1000, 3000, 5000])
def test_a_disk_that_is_full_at_any_size(toy_classifier: Make, whole: Path, tmp_path: Path, size: int) -> None:
    classifier, out = toy_classifier(), tmp_path / "run"
    largest = max(path.stat().st_size for path in whole.iterdir())
    assert size < largest
    with write_fails_at(size), pytest.raises(WriteError, match="cannot write .*File too large"):
        run(classifier, out)
    assert not list(out.rglob("*.tmp"))
    run(classifier, out)
    assert_equal(out, whole)


def test_the_work_is_that_of_the_first_image(toy_classifier: Make, tmp_path: Path) -> None:
    """Also where another image is the first that is not done."""
    torch.manual_seed(0)
    whole = run(toy_classifier(), tmp_path / "whole")
    (tmp_path / "whole" / "summary.json").unlink()
    assert numbers(run(toy_classifier(), tmp_path / "whole")) == numbers(whole)
