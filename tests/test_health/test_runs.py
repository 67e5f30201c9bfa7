"""The folders of runs: sound ones, interrupted ones, and every kind of damage."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from finished_runs import HALF, make_run
from tame.health.runs import check_run
from tame.inference.journal import JOURNAL
from tame.utils.owner import Owner


@pytest.fixture
def run(tame_command, toy_backbone, photographs, tmp_path):
    """Make a folder of a kind by its command; return the folder."""
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{index:02}.png ?\n" for index in range(3)))
    shared = ("--backbone", toy_backbone, "--device", "cpu", "--num-workers", "0", "--out", "run", "--quiet")
    lines = {
        "explain": (photographs / "00.png", photographs / "01.png", "--method", "gradcam"),
        "train": ("--data", photographs, "--epochs", "0", "--init-images", "2"),
        "evaluate": ("--data", photographs, "--list", few, "--method", "gradcam"),
        "compare": ("--data", photographs, "--list", few, "--methods", "gradcam,centre"),
    }

    def make(name):
        assert tame_command(name, *lines[name], *shared)[0] == 0
        return tmp_path / "run"

    return make


def findings(folder):
    return [(each.state, each.found) for each in check_run(folder)]


def problem(folder):
    (found,) = [each for each in check_run(folder) if each.state == "problem"]
    assert found.advice
    return found.found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("explain", ["2 explanations with their maps and overlays"]),
        ("train", ["attention mechanism: ttame of toy_cnn, 5 classes, stage1, stage2, stage3"]),
        ("evaluate", ["finished evaluation of gradcam, 3 images"]),
        ("compare", ["finished evaluation of centre, 3 images", "finished evaluation of gradcam, 3 images"]),
    ],
)
def test_what_the_commands_write_is_sound(run, name, expected):
    assert findings(run(name)) == [("ok", words) for words in expected]


def test_a_damaged_checkpoint(run):
    folder = run("train")
    file = folder / "attention.safetensors"
    whole, tensors = file.read_bytes(), load(file.read_bytes())
    file.write_bytes(whole[: len(whole) // 2])
    assert "is no checkpoint of an attention mechanism" in problem(folder)
    save_file(tensors, file, metadata={"tame": "{"})
    assert "are damaged, and cannot be read as JSON" in problem(folder)
    text = (folder / "metadata.json").read_text()
    save_file(tensors | {"fuser.bias": torch.full((5,), torch.nan)}, file, metadata={"tame": text})
    assert problem(folder) == "1 tensors hold NaN or infinite values, such as fuser.bias"
    file.write_bytes(whole)
    (folder / "metadata.json").write_text("{}")
    assert [state for state, _ in findings(folder)] == ["ok", "note"]


def test_a_damaged_evaluation(tmp_path):
    folder = make_run(tmp_path / "run", "gradcam", HALF)
    assert findings(folder) == [("ok", "finished evaluation of gradcam, 40 images")]
    rows, summary = folder / "rows.csv", folder / "summary.json"
    lines, content = rows.read_text().splitlines(), json.loads(summary.read_text())
    other = ["40" + lines[-1].removeprefix("39"), lines[-1].replace("0.75", "0.85")]
    for damage in (lines[:5], [*lines[:5], *lines[6:]], [*lines, lines[-1]], [*lines[:-1], other[0]], ["no rows"], []):
        rows.write_text("\n".join(damage))
        assert "rows.csv" in problem(folder)
    rows.write_text("\n".join([*lines[:-1], other[1], ""]))
    assert "rows.csv" in problem(folder)
    rows.unlink()
    assert "expected the rows of an evaluation, got no file" in problem(folder)
    rows.write_text("\n".join([*lines, ""]))
    assert findings(folder) == [("ok", "finished evaluation of gradcam, 40 images")]
    content["metrics"]["minmax/AD_100"]["value"] += 1
    summary.write_text(json.dumps(content))
    assert problem(folder) == "summary.json differs from rows.csv in minmax/AD_100 among 1 measures"
    for damage in ("{}", "", "[1]", json.dumps(content | {"settings": {}}), json.dumps(content | {"settings": None})):
        summary.write_text(damage)
        assert "summary.json" in problem(folder)


def test_an_interrupted_evaluation(tmp_path):
    folder = make_run(tmp_path / "run", "gradcam", HALF)
    (folder / "parts").mkdir()
    (folder / "rows.csv").rename(folder / "parts" / "0-000000.csv")
    (folder / "summary.json").unlink()
    assert "settings.json is missing or damaged" in problem(folder)
    (folder / "settings.json").write_text("{}")
    assert findings(folder) == [("note", "interrupted evaluation, 40 images are done")]
    (folder / "parts" / "0-000001.csv").write_text("half")
    assert "0-000001.csv" in problem(folder)


def test_an_interrupted_training(tmp_path):
    (tmp_path / "lightning").mkdir()
    assert findings(tmp_path) == [("note", "a training that ended before its first checkpoint")]
    torch.save({"epoch": 2, "global_step": 30}, tmp_path / "lightning" / "last.ckpt")
    assert findings(tmp_path) == [("note", "interrupted training, at step 30 in epoch 2")]
    for content in (b"", b"half", b"PK\x03\x04"):
        (tmp_path / "lightning" / "last.ckpt").write_bytes(content)
        assert problem(tmp_path).startswith("it cannot be read: ")
    torch.save({"epoch": 1, "global_step": 20}, tmp_path / "lightning" / "previous.ckpt")
    before = "interrupted training, at step 20 in epoch 1, since last.ckpt is damaged"
    assert findings(tmp_path) == [("note", before)]
    (tmp_path / "lightning" / "previous.ckpt").write_bytes(b"half")
    assert problem(tmp_path).startswith("it cannot be read: ")


def test_interrupted_explanations(tmp_path):
    (tmp_path / JOURNAL).write_text('{"method": "gradcam"}\n{"file": "a.jpg"}\n{"file": "b.jpg"}\n')
    assert findings(tmp_path) == [("note", "interrupted explanations, 2 images are done")]


def test_damaged_explanations(run):
    folder = run("explain")
    file = next(folder.glob("*.npy"))
    np.save(file, np.array(["x"]))
    assert problem(folder) == f"1 files of 2 explanations are missing or damaged, such as {file.name}"
    file.unlink()
    assert problem(folder) == f"1 files of 2 explanations are missing or damaged, such as {file.name}"
    for content in ("", "{}", "[1]", "[" * 100_000):
        (folder / "manifest.json").write_text(content)
        assert problem(folder) == "it is damaged"


def test_no_run_and_leftovers(tmp_path):
    assert problem(tmp_path) == "it holds no run, no explanations and no checkpoint"
    assert problem(tmp_path / "nowhere") == "it does not exist"
    folder = make_run(tmp_path / "run", "gradcam", HALF)
    living = f".tame-{Owner.own()}-1.tmp"
    ended = f".tame-{Owner.own()._replace(pid=2**22 + 1)}-1.tmp"
    for name in (living, ended):
        (folder / name).write_text("")
    assert findings(folder)[1:] == [("note", f"1 temporary files of processes that have ended, such as {ended}")]
