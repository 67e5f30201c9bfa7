"""Interrupted runs, finished runs, and runs of other settings in the same folder."""

import json
import signal
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file

import tame.training.fit
from tame.checkpoints.native import read_metadata
from tame.utils.checks import InputError


class Interrupt(lightning.Callback):
    """Ends a run after some steps, as a crash or an impatient user does."""

    def __init__(self, steps, error):
        self.steps, self.error = steps, error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise self.error


class InterruptValidation(lightning.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_validation_batch_end(self, trainer, pl_module, *_):
        if trainer.current_epoch == self.epoch:
            raise SystemExit(1)


@pytest.fixture
def interrupted(run_toy):
    """Run until an error ends it."""
    handler = signal.getsignal(signal.SIGINT)

    def run(callback, **changes):
        with pytest.raises((SystemExit, KeyboardInterrupt, RuntimeError)):
            run_toy(callback, **changes)

    yield run
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it after an interruption


def tensors(out):
    return {file.parent.name: load_file(file) for file in Path(out).glob("**/attention.safetensors")}


def assert_same_end(one, other):
    own, theirs = tensors(one.folder), tensors(other.folder)
    assert len(own) == len(theirs) == 2
    for mine, yours in zip(own.values(), theirs.values(), strict=True):
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[name], yours[name]) for name in mine)  # to the last digit
    assert one.metrics == other.metrics
    for key in "metrics", "epoch":
        assert read_metadata(one.folder)[key] == read_metadata(other.folder)[key]


RUNS = {
    "tame": {},
    "released": {"preset": "released"},
    "paper": {"preset": "paper"},  # random classes and random crops
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("steps", "error"),
    [(3, KeyboardInterrupt()), (6, SystemExit(1)), (8, RuntimeError("no memory"))],
    ids=["first epoch", "second epoch", "second epoch, later"],
)
def test_a_run_started_again_ends_as_an_uninterrupted_one(
    run_toy, interrupted, tmp_path, monkeypatch, name, steps, error
):
    """An epoch has 5 steps, and every second step is saved."""
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    whole = run_toy(out=tmp_path / "whole", **RUNS[name])
    interrupted(Interrupt(steps, error), **RUNS[name])
    assert not (tmp_path / "run" / "attention.safetensors").exists()
    assert_same_end(run_toy(**RUNS[name]), whole)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_interrupted_while_it_validates_does_not_skip_it(run_toy, interrupted, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 5)  # the last step of each epoch, too
    whole = run_toy(out=tmp_path / "whole", preset="released")
    interrupted(InterruptValidation(epoch), preset="released")
    assert_same_end(run_toy(preset="released"), whole)


def test_a_run_interrupted_before_its_first_checkpoint_starts_anew(run_toy, interrupted, tmp_path):
    whole = run_toy(out=tmp_path / "whole")
    interrupted(Interrupt(2, RuntimeError()))
    assert_same_end(run_toy(), whole)


def test_a_run_with_other_settings_does_not_continue(run_toy, interrupted, monkeypatch):
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    interrupted(Interrupt(3, RuntimeError()))
    with pytest.raises(InputError, match=r"holds a run with other settings: choices\.max_lr 0\.05, not 0\.1\."):
        run_toy(lr=0.1)
    run_toy(lr=0.1, resume=False)


def test_a_run_that_an_earlier_version_began_is_resumed(run_toy, interrupted, tmp_path, monkeypatch):
    """Its settings have the same keys but the preprocessing, and 0 for no clipping."""
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    interrupted(Interrupt(3, RuntimeError()))
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    del settings["preprocessing"]
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    assert settings["clip"] == 0.0
    assert settings.keys() == {
        "backbone", "weights", "weights_sha256", "layers", "num_classes", "attention", "output_size", "preset",
        "choices", "images", "train_list_sha256", "val_list_sha256", "seed", "precision", "clip",
    }  # fmt: skip
    assert settings["choices"].keys() == {
        "name", "layers", "init", "trainable", "loss", "other_classes", "crop", "output_size", "batch_size", "epochs",
        "max_lr", "token_attention", "token_max_lr", "masking", "ic_margin", "road_selection", "road_space",
        "road_reading", "rise_weights",
    }  # fmt: skip
    run_toy()


def test_starting_over_forgets_the_earlier_run(run_toy, interrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    whole = run_toy(out=tmp_path / "whole")
    run_toy(preset="released")
    interrupted(Interrupt(1, RuntimeError()), resume=False)  # before its first checkpoint
    assert_same_end(run_toy(), whole)


def test_a_finished_run_is_not_overwritten(run_toy):
    out = run_toy(epochs=0).folder
    before = (out / "attention.safetensors").read_bytes()
    with pytest.raises(InputError, match="contains a finished run: give another out, or resume=False"):
        run_toy(epochs=0, seed=1)
    assert (out / "attention.safetensors").read_bytes() == before
    run_toy(epochs=0, seed=1, resume=False)
    assert read_metadata(out)["seed"] == 1
