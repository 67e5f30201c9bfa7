"""Interrupted runs, finished runs, and runs of other settings in the same folder."""

import errno
import json
import signal
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file

import tame.training.fit
from faults import assert_nothing_lost, call_fails
from tame.checkpoints.native import read_metadata
from tame.training.last_checkpoint import AtomicCheckpoints
from tame.utils.checks import InputError
from tame.utils.io import WriteError


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


class InterruptStart(lightning.Callback):
    """Ends a run before an epoch, or before its first step."""

    def __init__(self, hook, steps):
        self.steps = steps
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.global_step == self.steps:
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
    for part in "", "last":
        mine, yours = read_metadata(one.folder / part), read_metadata(other.folder / part)
        assert mine["metrics"] and mine["initial_metrics"]
        for key in "metrics", "initial_metrics", "epoch":
            assert mine[key] == yours[key]


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


def test_a_run_ended_after_its_last_epoch_has_the_same_metrics(run_toy, interrupted, tmp_path):
    class End(lightning.Callback):
        def on_train_end(self, trainer, pl_module):
            raise SystemExit(1)

    whole = run_toy(out=tmp_path / "whole")
    interrupted(End())
    assert_same_end(run_toy(), whole)


def test_resuming_says_how_much_is_done(run_toy, interrupted, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    interrupted(Interrupt(7, SystemExit(1)))
    with caplog.at_level("INFO", "tame"):
        run_toy()
    last = tmp_path / "run" / "lightning" / "last.ckpt"
    assert f"Resuming from {last}: 6 of 10 steps are done." in caplog.messages


# --- checkpoints that cannot be read


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def empty(file):
    file.write_bytes(b"")


def foreign(file):
    torch.save({"state_dict": {}, "epoch": 1}, file)


def of_another_mechanism(file):
    content = torch.load(file, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, file)


def harmful(file):
    torch.save({"state_dict": Path("/")}, file)  # no tensor: weights_only refuses to build it


DAMAGES = [truncate, empty, foreign, of_another_mechanism, harmful]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(run_toy, interrupted, tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    whole = run_toy(out=tmp_path / "whole")
    interrupted(Interrupt(7, SystemExit(1)))
    last = tmp_path / "run" / "lightning" / "last.ckpt"
    damage(last)
    with caplog.at_level("INFO", "tame"):
        assert_same_end(run_toy(), whole)
    (message,) = [one for one in caplog.messages if "Cannot read" in one]
    assert message.startswith(f"Cannot read {last} (") and "\n" not in message
    assert message.endswith("): the checkpoint before it is used.")
    assert f"Resuming from {last.with_name('previous.ckpt')}: 5 of 10 steps are done." in caplog.messages


def test_without_a_checkpoint_that_can_be_read_the_way_out_is_named(run_toy, interrupted, tmp_path):
    interrupted(Interrupt(5, SystemExit(1)))
    last = tmp_path / "run" / "lightning" / "last.ckpt"
    truncate(last)
    with pytest.raises(InputError, match=r"cannot resume: .*last\.ckpt \(.*\): choose another .*\(resume false\)"):
        run_toy()
    run_toy(resume=False)


def test_a_damaged_best_checkpoint_is_found_before_training_goes_on(run_toy, interrupted, tmp_path):
    interrupted(Interrupt(8, SystemExit(1)))
    empty(tmp_path / "run" / "lightning" / "best.ckpt")
    with pytest.raises(InputError, match=r"cannot resume: .* of the best epoch in .*best\.ckpt, got"):
        run_toy()


def test_a_run_is_resumed_where_its_folder_was_moved(run_toy, interrupted, tmp_path):
    """The first epoch is the best one."""

    class Rising(Interrupt):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/rising", float(trainer.current_epoch))

    whole = run_toy(Rising(99, None), "val/rising", out=tmp_path / "whole")
    interrupted(Rising(8, SystemExit(1)), monitor="val/rising")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert_same_end(run_toy(Rising(99, None), "val/rising", out=moved), whole)
    assert whole.epoch == 1


# --- disks that are full


def test_a_checkpoint_is_written_completely_or_not_at_all(tmp_path):
    content = {"state_dict": {"a": torch.arange(5000.0)}}
    file = tmp_path / "last.ckpt"
    torch.save({"earlier": 1}, file)
    assert assert_nothing_lost(lambda: AtomicCheckpoints().save_checkpoint(content, file), [file]) > 20


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_loses_no_checkpoint(run_toy, tmp_path, monkeypatch, after):
    """Steps 2, 4 and 5 of the first epoch are saved, and the epoch, twice."""
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    whole = run_toy(out=tmp_path / "whole")
    with call_fails("fsync", "run/lightning", after=after), pytest.raises(WriteError, match=r"No space left on device"):
        run_toy()
    assert_same_end(run_toy(), whole)


# --- other settings, other runs


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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_start"])
def test_a_run_resumed_between_two_epochs_trains_on_the_next_epochs_batches(
    run_toy, interrupted, tmp_path, hook, workers
):
    """An epoch has 5 steps; workers prefetch before Lightning tells them the epoch."""
    whole = run_toy(out=tmp_path / "whole", preset="released")
    interrupted(InterruptStart(hook, 5), preset="released", num_workers=workers)
    assert_same_end(run_toy(preset="released", num_workers=workers), whole)


def test_a_full_disk_of_the_log_is_one_line_that_names_it(run_toy, tmp_path, monkeypatch, capfd):
    """TensorBoard writes in a thread of its own."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(WriteError, match=r"cannot write .*logs: .*\(ENOSPC\)"):
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
        run_toy(logger=["csv", "tensorboard"])
    assert "Exception in thread" not in capfd.readouterr().err
    assert run_toy().metrics
