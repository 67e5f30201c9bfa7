"""Training in two processes: what is measured, counted, saved and interrupted."""

import os
import signal

import lightning
import pytest

import tame.training.fit
from tame.checkpoints.native import read_metadata
from test_training.test_resume import Interrupt, assert_same_end

TWO = {"devices": 2, "strategy": "ddp_fork", "batch_size": 2}


class Signal(lightning.Callback):
    """Sends a signal to the process that started the two, in the middle of a step of one of them."""

    def __init__(self, rank, step):
        self.rank, self.step = rank, step

    def on_after_backward(self, trainer, pl_module):
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            os.kill(os.getppid(), signal.SIGTERM)


@pytest.mark.slow
def test_two_processes_measure_the_initialisation_as_one(run_toy, tmp_path):
    one = run_toy(out=tmp_path / "one", limit_val_images=None)
    # per cent; the ranks of the pixels differ by the batch size in the last digits
    two = run_toy(out=tmp_path / "two", **TWO)
    assert two.initial_metrics == pytest.approx(one.initial_metrics, abs=0.01)
    assert two.metrics.keys() == one.metrics.keys()
    assert read_metadata(two.folder)["metrics"] == two.metrics


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 8])
def test_a_run_of_two_processes_is_resumed_within_an_epoch(run_toy, tmp_path, monkeypatch, steps):
    """Steps 2 and 6 are saved, of 5 in an epoch."""
    monkeypatch.setattr(tame.training.fit, "_SAVE_EVERY", 2)
    whole = run_toy(out=tmp_path / "whole", **TWO)
    with pytest.raises(Exception, match="no memory"):
        run_toy(Interrupt(steps, RuntimeError("no memory")), **TWO)
    assert_same_end(run_toy(**TWO), whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_both_processes_end_where_one_had_a_signal(run_toy, tmp_path, rank):
    whole = run_toy(out=tmp_path / "whole", **TWO)
    with pytest.raises(SystemExit, match="interrupted, [2-9] of 10 steps are saved; the same command continues"):
        run_toy(Signal(rank, 2), **TWO)
    assert_same_end(run_toy(**TWO), whole)
