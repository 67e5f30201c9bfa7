"""Whose a run's folder is: one run at a time, and no file of anyone else is written over."""

import json
import os

import pytest

from tame.checkpoints.native import read_metadata
from tame.training.folder import FILES
from tame.utils.checks import InputError
from tame.utils.folders import claim, locked
from tame.utils.owner import temporary_name


@pytest.mark.parametrize("name", ["train.txt", "config.json", "settings.json", "metadata.json", "last/notes.txt"])
@pytest.mark.parametrize("resume", [True, False])
def test_files_of_the_user_are_not_written_over(run_toy, tmp_path, name, resume):
    out = tmp_path / "run"
    file = out / name
    file.parent.mkdir(parents=True)
    file.write_text('{"mine": 1}')
    shown = name if "/" not in name else "last/"
    with pytest.raises(InputError, match=f"holds {shown}, which no run wrote: choose another output folder"):
        run_toy(resume=resume)
    assert [path for path in out.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == '{"mine": 1}'


def test_files_beside_a_run_are_left_alone(run_toy, tmp_path):
    note = tmp_path / "run" / "notes.md"
    note.parent.mkdir()
    note.write_text("mine")
    run_toy(epochs=0)
    run_toy(epochs=0, resume=False)
    assert note.read_text() == "mine"


def test_a_list_of_the_user_in_the_output_folder_is_kept(run_toy, photographs, tmp_path):
    """`tame train --train-list own/train.txt --out own`."""
    own = tmp_path / "own" / "train.txt"
    own.parent.mkdir()
    own.write_text("".join(f"{index:02}.png\n" for index in range(20)))
    before = own.read_text()
    with pytest.raises(InputError, match=r"got .*own/train\.txt, which the run would overwrite: choose another output"):
        run_toy(train_list=own, limit_images=6, out=own.parent)
    assert own.read_text() == before


def test_the_lists_of_a_run_are_not_made_smaller_by_one_that_reads_them(run_toy, tmp_path):
    out = run_toy(epochs=0).folder
    lists = {"train_list": out / "train.txt", "val_list": out / "validation.txt"}
    before = {name: file.read_text() for name, file in lists.items()}
    with pytest.raises(InputError, match=r"expected lists of images outside of out, got .*train\.txt"):
        run_toy(epochs=0, resume=False, limit_images=5, **lists)
    with pytest.raises(InputError, match="expected lists of images outside of out, got "):
        run_toy(epochs=0, resume=False, train_list=out / "validation.txt", val_list=out / "train.txt")
    assert {name: file.read_text() for name, file in lists.items()} == before
    run_toy(epochs=0, resume=False, **lists)
    assert {name: file.read_text() for name, file in lists.items()} == before


def test_a_folder_that_another_process_uses_is_refused(run_toy, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(InputError, match="is in use by process"):
        run_toy()
    assert not (tmp_path / "run" / "settings.json").exists()
    run_toy(epochs=0)


def test_a_run_that_an_earlier_version_wrote_is_started_over(run_toy):
    """It noted no files."""
    out = run_toy(epochs=0).folder
    (out / ".tame-files.json").unlink()
    run_toy(epochs=0, seed=1, resume=False)
    assert read_metadata(out)["seed"] == 1


def test_temporary_files_of_a_killed_run_are_removed(run_toy, tmp_path):
    name = temporary_name().replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")  # a process that does not run
    folders = ["", "last", "lightning", "explanations", "logs/version_0/explanations"]
    for folder in folders:
        file = tmp_path / "run" / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    claim(tmp_path / "run", FILES, known=True)
    run_toy(epochs=1)
    assert not list((tmp_path / "run").rglob(name))


def test_results_of_an_earlier_run_are_not_mixed_with_those_of_another(run_toy):
    out = run_toy(epochs=1).folder
    run_toy(epochs=0, resume=False)
    assert not (out / "last" / "attention.safetensors").exists()
    assert not list((out / "lightning").glob("last.ckpt"))


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"'])
def test_damaged_settings_are_named_with_the_way_out(run_toy, tmp_path, content):
    out = run_toy(epochs=1).folder
    (out / "attention.safetensors").unlink()  # as if it were interrupted
    (out / "settings.json").write_text(content)
    with pytest.raises(InputError, match=r"settings\.json.* Choose another output folder \(out\)"):
        run_toy(epochs=1)
    run_toy(epochs=1, resume=False)
    assert json.loads((out / "settings.json").read_text())["seed"] == 0
