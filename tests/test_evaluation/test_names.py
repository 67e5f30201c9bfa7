"""Names of files that are not UTF-8, or hold line breaks and escape characters."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from small_runs import measure
from tame.checkpoints.classifier import load_classifier
from tame.evaluation.records import open_run, read_run
from tame.reporting.compare import compare
from tame.utils.checks import InputError

BYTES = (b"caf\xe9.png", b"a\nb\rc.png", b"\x1b[31mred.png", b'"q", \xff.png', b"plain.png")
NAMES = sorted(os.fsdecode(name) for name in BYTES)


@pytest.fixture
def folder(photographs: Path, tmp_path: Path, toy_backbone: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose own name is not UTF-8, of images with odd names."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / os.fsdecode(b"pictur\xe9s\n")
    folder.mkdir()
    for number, name in enumerate(NAMES):
        shutil.copy(photographs / f"{number:02}.png", folder / name)
    return folder


def test_they_are_evaluated_and_read_back(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"r\xe9sults")
    summary = measure(data=folder, out=out, batch_size=2)
    assert summary.images == 5 and open_run(out).rows.files == NAMES == read_run(out)["file"].tolist()
    assert measure(data=folder, out=out) == summary  # the list is known again


def test_a_list_of_them_is_the_same_evaluation(folder: Path, tmp_path: Path) -> None:
    raw = [os.fsencode(name) for name in NAMES if "\n" not in name and not name.startswith('"')]
    (tmp_path / "list.txt").write_bytes(b"".join(name + b" 2\n" for name in raw))
    assert measure(data=folder, out="a", list="list.txt", limit_images=None).labelled == 3
    assert [os.fsencode(name) for name in open_run("a").rows.files] == raw


def test_their_maps_are_read(folder: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in NAMES[1:]:
        np.save(maps / name.replace(".png", ".npy"), np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match="lacks the maps of 1 of 5 images, such as ") as error:
        measure(data=folder, out="maps-run", maps=maps)
    str(error.value).encode()  # can be printed
    assert str(error.value).isprintable()
    np.save(maps / NAMES[0].replace(".png", ".npy"), np.ones((2, 2), np.float32))
    assert measure(data=folder, out="maps-run", maps=maps).images == 5


def test_they_are_compared_and_stand_in_the_report(folder: Path) -> None:
    compare(
        ["centre", "random"],
        load_classifier("toy_cnn", device="cpu"),
        data=folder,
        out="out",
        report="out",
        report_images=5,
        progress=False,
    )
    assert open_run("out/centre").rows.files == NAMES
    page = Path("out/report.html").read_bytes()
    assert page.count(b"data:image/jpeg") == 5 and b"\\udce9" in page and b"\x1b" not in page
