"""What a training run shows, logs and draws."""

import csv
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

import tame
from tame.training import loggers
from tame.training.progress import quiet_lightning
from tame.utils.checks import InputError
from tame.visualize import training_curves

NET = """
from torch import nn
def build():
    last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), *last)
"""


@pytest.fixture
def command(photographs, tmp_path):
    """Return ``command(*options)``: train in a process of its own; its standard output and errors."""
    (tmp_path / "net.py").write_text(NET)
    path = os.pathsep.join([str(Path(tame.__file__).parents[1]), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(*options):
        line = [sys.executable, "-m", "tame", "train", "--backbone", "net:build", "--input-size", "32", "--layers", "1",
                "--data", str(photographs), "--epochs", "2", "--batch-size", "4", "--num-workers", "0", "--init",
                "random", "--device", "cpu", *options]  # fmt: skip
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    return run


@pytest.mark.slow
def test_the_command_is_quiet_and_ends_with_what_was_measured(command):
    out, errors = command("--out", "run", "--quiet")
    assert errors == ""
    table = out.splitlines()
    assert [line.split("  ")[0] for line in table] == [
        "validation images", "loss", "AD at 100/50/15 % of the pixels (minmax)",
        "IC at 100/50/15 % of the pixels (minmax)", "AD at 100/50/15 % of the pixels (rank)",
        "IC at 100/50/15 % of the pixels (rank)",
        "The explainer is in run; use it with: tame explain --backbone net:build --checkpoint run",
    ]  # fmt: skip
    assert "initialisation" in table[0] and "after epoch" in table[0]
    three = r"[0-9.]+ / [0-9.]+ / [0-9.]+"
    assert all(re.search(rf"\) +{three}  +{three}$", line) for line in table[2:6])


@pytest.mark.slow
def test_only_our_lines_and_the_bar_are_shown_unless_details_are_asked_for(command):
    _, errors = command("--out", "run")
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "it/s" not in line]
    assert not [line for line in lines if any(word in line for word in ("Tip", "INFO", "GPU", "eval mode", "leaf"))]
    assert lines[0] == "No validation list: 2 of 24 images were split off."
    _, errors = command("--out", "again", "--verbose")
    assert errors.count("GPU available") == 1  # once


def test_messages_of_lightning_come_back(caplog):
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = [(each.level, each.handlers, each.propagate) for each in map(logging.getLogger, ("lightning.pytorch",))]
    with caplog.at_level("INFO"):
        warnings.simplefilter("always")
        with warnings.catch_warnings(record=True) as caught, quiet_lightning():
            log.info("an advertisement")
            log.error("a failure")
            warnings.warn_explicit("alarming", UserWarning, "fit_loop.py", 1, module="lightning.pytorch.loops.fit_loop")
            warnings.warn_explicit("of ours", UserWarning, "net.py", 1, module="net")
        log.info("afterwards")
    assert caplog.messages == ["a failure", "afterwards"]
    assert [str(one.message) for one in caught] == ["of ours"]
    after = [(each.level, each.handlers, each.propagate) for each in map(logging.getLogger, ("lightning.pytorch",))]
    assert after == before


# --- loggers


def test_logs_have_the_choices_the_initialisation_and_a_loss_of_a_short_run(run_toy):
    out = run_toy(epochs=1, preset="released").folder
    (logs,) = (out / "logs").iterdir()
    noted = yaml.safe_load((logs / "hparams.yaml").read_text())
    assert noted["preset"] == "released" and noted["max_lr"] == 0.05 and noted["images"] == 22
    assert noted["layers"] == ["stage1", "stage2", "stage3"] and noted["loss"] == "released"
    with (logs / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    validated = [(row["epoch"], row["step"]) for row in rows if row["val/total"]]
    assert validated == [("0", "0"), ("0", "4")]
    assert len([row for row in rows if row["train/total"]]) == 5


def test_no_logger_writes_into_the_working_folder(run_toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    out = run_toy(epochs=1, logger=["none"]).folder
    assert set(tmp_path.iterdir()) - before == {out}
    assert not (out / "logs").exists()
    assert len(list((out / "explanations").iterdir())) == 1


def test_loggers_by_name(tmp_path):
    made = loggers.build_loggers(["tensorboard", "csv"], tmp_path)
    assert [type(one) for one in made] == [CSVLogger, TensorBoardLogger]
    assert made[0].log_dir == made[1].log_dir == str(tmp_path / "logs" / "version_0")
    assert loggers.build_loggers(["none"], tmp_path) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_are_named_by_the_runs_folder(tmp_path, monkeypatch, name):
    class Service:
        def __init__(self, *arguments, **options):
            self.given = [*arguments, *options.values()]

    monkeypatch.setattr(loggers, "WandbLogger", Service)
    monkeypatch.setattr(loggers, "MLFlowLogger", Service)
    (made,) = loggers.build_loggers([name], tmp_path / "mine")
    assert "tame" in made.given and "mine" in made.given


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_whose_package_is_missing_is_refused_before_work(run_toy, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(
        InputError, match=f"the logger {name} needs a package that is not installed: pip install {name}"
    ):
        run_toy(logger=[name])
    assert not (tmp_path / "run").exists()


# --- pictures


def test_three_explanations_are_drawn_after_each_epoch(run_toy, photographs, tmp_path):
    files = [tmp_path / "t.txt", tmp_path / "v.txt"]
    files[0].write_text("".join(f"{index:02}.png\n" for index in range(20)))
    files[1].write_text("".join(f"{index:02}.png\n" for index in range(20, 24)))
    out = run_toy(train_list=files[0], val_list=files[1]).folder
    drawn = sorted((out / "logs" / "version_0" / "explanations").iterdir())
    assert [file.name for file in drawn] == ["val-epoch=0-step=5.png", "val-epoch=1-step=10.png"]
    width, height = Image.open(drawn[0]).size
    assert width > 3 * 200 and 2 * 200 < height < 2 * 300


def test_the_course_of_a_run_is_drawn(run_toy, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "tame.training.save.training_curves", lambda *what: drawn.append(what) or training_curves(*what)
    )
    run = run_toy()
    ((losses, validations, steps, path),) = drawn
    assert len(losses) == 10 and steps == 5 and sorted(validations) == [0, 1, 2]
    assert validations[0] == run.initial_metrics and validations[run.epoch] == run.metrics
    assert path == run.folder / "training.png" and Image.open(path).size == (1440, 456)


def test_curves_without_ad_and_ic(tmp_path):
    assert training_curves([1.0], {0: {"val/total": 1.0}}, 1, tmp_path / "one.png").is_file()
    assert training_curves([], {}, 1, tmp_path / "none.png").is_file()
