"""Ctrl-C and SIGTERM: a checkpoint at once, one line that says how to continue, and the same end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest

import tame
from tame.training.interrupts import Interrupts
from tame.utils.signals import Terminated, terminable
from test_training.test_resume import assert_same_end


class Signal(lightning.Callback):
    """Sends a signal to this process in a hook, once ``steps`` steps are done."""

    def __init__(self, number, hook, steps, times=1):
        self.number, self.steps, self.times = number, steps, times
        setattr(self, hook, self.send)

    def send(self, trainer, *_, **__):
        if trainer.global_step == self.steps:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture(autouse=True)
def handlers():
    """Check that the handlers of before are back."""
    before = [signal.getsignal(number) for number in ENDS]
    yield
    assert [signal.getsignal(number) for number in ENDS] == before


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize(
    ("hook", "steps", "saved"),
    [
        ("on_after_backward", 2, 3),  # the step is finished first
        ("on_before_optimizer_step", 0, 1),
        ("on_train_batch_start", 3, 3),
        ("on_train_batch_start", 7, 7),
        ("on_train_batch_end", 2, 2),
        ("on_after_backward", 4, 4),  # the last step of an epoch: there is no checkpoint before the validation
        ("on_validation_batch_end", 5, 4),
        ("on_train_epoch_start", 5, 5),
    ],
)
def test_an_interrupted_run_is_saved_at_once_and_continues(run_toy, tmp_path, number, hook, steps, saved):
    """An epoch has 5 steps; none is saved by their number."""
    whole = run_toy(out=tmp_path / "whole", preset="released")
    line = f"interrupted, {saved} of 10 steps are saved; the same command continues from there"
    with pytest.raises(ENDS[number], match=f"^{line}$"):
        run_toy(Signal(number, hook, steps), preset="released")
    assert_same_end(run_toy(preset="released"), whole)


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_validation_batch_start", "on_train_start"])
def test_a_run_interrupted_before_its_first_step_starts_again(run_toy, tmp_path, number, hook):
    whole = run_toy(out=tmp_path / "whole")
    with pytest.raises(ENDS[number], match="^interrupted before a step could be saved; the same command starts again$"):
        run_toy(Signal(number, hook, 0))
    assert_same_end(run_toy(), whole)


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("place", ["_trainer", "_module"])
def test_a_run_interrupted_while_it_is_prepared_starts_again(run_toy, tmp_path, monkeypatch, number, place):
    whole = run_toy(out=tmp_path / "whole")

    def interrupted(*_, **__):
        os.kill(os.getpid(), number)
        time.sleep(1)

    with monkeypatch.context() as patch, pytest.raises(ENDS[number], match="^interrupted before a step could be saved"):
        patch.setattr(f"tame.training.fit.{place}", interrupted)
        run_toy()
    assert_same_end(run_toy(), whole)


def test_a_second_signal_does_not_wait_for_the_step(run_toy, tmp_path):
    whole = run_toy(out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt, match="interrupted before a step could be saved"):
        run_toy(Signal(signal.SIGINT, "on_after_backward", 0, times=2))
    assert_same_end(run_toy(), whole)


def test_a_run_that_does_not_resume_is_told_to(run_toy):
    with pytest.raises(KeyboardInterrupt, match="1 of 10 steps are saved; the same command with resume true continues"):
        run_toy(Signal(signal.SIGINT, "on_after_backward", 0), resume=False)


def test_terminable_restores_the_handler():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as error, terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (error.value.code, str(error.value)) == (143, "terminated")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_ends_with_one_line_and_leaves_no_process(photographs, tmp_path, number, status, workers):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), *last)\n"
    )
    command = [
        sys.executable, "-m", "tame", "train", "--backbone", "net:build", "--input-size", "32", "--layers", "1",
        "--data", str(photographs), "--epochs", "500", "--batch-size", "4", "--num-workers", str(workers),
        "--init", "random", "--out", "run", "--quiet",
    ]  # fmt: skip
    path = os.pathsep.join([str(Path(tame.__file__).parents[1]), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "lightning" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors.strip().splitlines()[-1].startswith("tame train: interrupted, "), errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not list((tmp_path / "run").glob("**/.tame-*.tmp")) and not (tmp_path / "run" / ".tame-lock").exists()


def test_a_signal_while_processes_ask_each_other_is_answered_after_the_next_batch():
    """If one process answered it at once, the others would wait for it in their next step for ever."""
    interrupts = Interrupts(alone=False)

    def decide(mine, all):  # noqa: A002 - Lightning's name
        interrupts._number = signal.SIGTERM  # arrives when this process has said that it had none
        return mine

    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=decide))
    assert interrupts.agreed(trainer) == 0
    assert interrupts.agreed(trainer) == signal.SIGTERM
