import csv
import json
import signal
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file

import tame.training.train
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.native import load_attention, read_metadata
from tame.data import read_list
from tame.options import TrainOptions
from tame.presets import PRESETS as ALL_PRESETS
from tame.training.setup import with_attention
from tame.training.train import resolve_choices, train
from tame.utils.checks import InputError
from toys import TOY_SPECS


@pytest.fixture
def options(toy_backbone, photographs, tmp_path, monkeypatch):
    """Return what makes the options of a small run into tmp_path / "run"."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)

    def make(**choices):
        small = {"epochs": 2, "batch_size": 4, "device": "cpu", "num_workers": 0, "init_images": 8, "lr": 0.05}
        where = {"backbone": toy_backbone, "data": str(photographs), "out": str(tmp_path / "run")}
        return TrainOptions(**{**where, **small, **choices})

    return make


def logged(out):
    with (out / "logs" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


PRESETS = {
    "tame": {},
    "tame, all": {"trainable": "all"},
    "released": {"preset": "released", "init": "random"},
    "paper": {"preset": "paper"},
}


@pytest.mark.parametrize("name", PRESETS)
def test_training_from_photographs_to_a_checkpoint(options, toy_backbone, tmp_path, name):
    out = train(options(**PRESETS[name]))
    assert out == tmp_path / "run"
    metadata = read_metadata(out)
    classifier = load_backbone(toy_backbone, layers=metadata["layers"])
    model = ExplainedClassifier(classifier, load_attention(out, classifier))
    maps = model.maps(torch.rand(2, 3, 32, 32), torch.tensor([0, 4]))
    assert maps.std((1, 2)).min() > 0  # not constant
    assert load_file(out / "last" / "attention.safetensors").keys() == load_file(out / "attention.safetensors").keys()
    assert metadata["attention"] == "ttame"
    assert metadata["preset"] == name.split(",")[0]
    assert (metadata["images"], metadata["seed"]) == (22, 0)
    assert metadata["choices"]["epochs"] == 2 and metadata["epoch"] in (1, 2)
    rows = logged(out)
    ranked = metadata["choices"]["loss"] == "ranked"
    for part in "train", "val":
        for term in ["cross_entropy", "total"] + ([] if ranked else ["area", "variation"]):
            assert any(row.get(f"{part}/{term}") for row in rows), f"{part}/{term}"
    accuracies = [float(row["val/masked_accuracy"]) for row in rows if row["val/masked_accuracy"]]
    assert len(accuracies) == 2 and all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert any(row.get("lr-SGD") or row.get("lr-SGD/pg1") for row in rows)


def test_training_learns(options):
    out = train(options(epochs=6, preset="released", batch_size=8))
    totals = [float(row["val/total"]) for row in logged(out) if row["val/total"]]
    assert totals[-1] < totals[0]


def test_the_split_is_written_down_and_can_be_given_again(options, photographs, tmp_path):
    out = train(options(epochs=0))
    train_list, val_list = (read_list(out / f"{part}.txt", photographs, 5) for part in ("train", "validation"))
    assert (len(train_list), len(val_list)) == (22, 2)  # 10 % of 24
    assert sorted(path.name for path, _ in train_list + val_list) == [f"{index:02}.png" for index in range(24)]
    assert all(label is None for _, label in train_list)
    again = train(
        options(
            epochs=0,
            train_list=str(out / "train.txt"),
            val_list=str(out / "validation.txt"),
            out=str(tmp_path / "again"),
        )
    )
    keys = "train_list_sha256", "val_list_sha256"
    assert [read_metadata(again)[key] for key in keys] == [read_metadata(out)[key] for key in keys]
    assert (again / "validation.txt").read_text() == (out / "validation.txt").read_text()


def test_limits_draw_images(options):
    out = train(options(epochs=0, limit_images=7, limit_val_images=1))
    assert len((out / "train.txt").read_text().splitlines()) == 7
    assert len((out / "validation.txt").read_text().splitlines()) == 1
    assert read_metadata(out)["images"] == 7


def test_no_epochs_write_the_initialisation(options, toy_backbone):
    out = train(options(epochs=0))
    assert sorted(path.name for path in out.iterdir()) == [
        "attention.safetensors", "config.json", "metadata.json", "settings.json", "train.txt", "validation.txt",
    ]  # fmt: skip
    state = load_file(out / "attention.safetensors")
    assert not any("shared_row" in name for name in state)
    assert all(not state[f"bns.{index}.weight"].any() for index in range(3))  # branches start as their input
    load_attention(out, load_backbone(toy_backbone))


def test_what_a_run_leaves(options):
    out = train(options(preset="released"))
    assert sorted(path.name for path in out.iterdir()) == [
        "attention.safetensors", "config.json", "last", "lightning", "logs", "metadata.json", "settings.json",
        "train.txt", "validation.txt",
    ]  # fmt: skip
    assert json.loads((out / "metadata.json").read_text())["metrics"].keys() == {"val/total"}
    for file in (out / "lightning").iterdir():
        state = torch.load(file, weights_only=True)["state_dict"]
        assert state and all(name.startswith("model.attention.") for name in state)


def test_the_best_epoch_is_kept(options):
    """A monitored value that rises makes the first epoch the best one."""

    class Rising(lightning.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/rising", float(trainer.current_epoch))

    out = train(options(epochs=3, preset="released"), callbacks=[Rising()], monitor="val/rising")
    assert read_metadata(out)["epoch"] == 1
    assert read_metadata(out / "last")["epoch"] == 3
    best, last = (load_file(folder / "attention.safetensors") for folder in (out, out / "last"))
    assert not torch.equal(best["fuser.weight"], last["fuser.weight"])


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
def interrupted(monkeypatch):
    """Run until an error ends it."""
    handler = signal.getsignal(signal.SIGINT)

    def run(options, callback):
        with pytest.raises((SystemExit, KeyboardInterrupt, RuntimeError)):
            train(options, callbacks=[callback])

    yield run
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it after an interruption


def tensors(out):
    return {file.parent.name: load_file(file) for file in Path(out).glob("**/attention.safetensors")}


def assert_same_end(one, other):
    own, theirs = tensors(one), tensors(other)
    assert len(own) == len(theirs) == 2
    for mine, yours in zip(own.values(), theirs.values(), strict=True):
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[name], yours[name]) for name in mine)  # to the last digit
    assert read_metadata(one)["metrics"] == read_metadata(other)["metrics"]
    assert read_metadata(one)["epoch"] == read_metadata(other)["epoch"]


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
    options, interrupted, tmp_path, monkeypatch, name, steps, error
):
    """An epoch has 5 steps, and every second step is saved."""
    monkeypatch.setattr(tame.training.train, "_SAVE_EVERY", 2)
    whole = train(options(out=str(tmp_path / "whole"), **RUNS[name]))
    again = options(**RUNS[name])
    interrupted(again, Interrupt(steps, error))
    assert not (tmp_path / "run" / "attention.safetensors").exists()
    assert_same_end(train(again), whole)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_interrupted_while_it_validates_does_not_skip_it(options, interrupted, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(tame.training.train, "_SAVE_EVERY", 5)  # the last step of each epoch, too
    whole = train(options(out=str(tmp_path / "whole"), preset="released"))
    interrupted(options(preset="released"), InterruptValidation(epoch))
    assert_same_end(train(options(preset="released")), whole)


def test_a_run_interrupted_before_its_first_checkpoint_starts_anew(options, interrupted, tmp_path):
    whole = train(options(out=str(tmp_path / "whole")))
    interrupted(options(), Interrupt(2, RuntimeError()))
    assert_same_end(train(options()), whole)


def test_a_run_with_other_settings_does_not_continue(options, interrupted, monkeypatch):
    monkeypatch.setattr(tame.training.train, "_SAVE_EVERY", 2)
    interrupted(options(), Interrupt(3, RuntimeError()))
    with pytest.raises(InputError, match=r"holds a run with other settings: choices\.max_lr 0\.05, not 0\.1\."):
        train(options(lr=0.1))
    train(options(lr=0.1, resume=False))


def test_starting_over_forgets_the_earlier_run(options, interrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(tame.training.train, "_SAVE_EVERY", 2)
    whole = train(options(out=str(tmp_path / "whole")))
    train(options(preset="released"))
    interrupted(options(resume=False), Interrupt(1, RuntimeError()))  # before its first checkpoint
    assert_same_end(train(options()), whole)


def test_a_finished_run_is_not_overwritten(options):
    out = train(options(epochs=0))
    before = (out / "attention.safetensors").read_bytes()
    with pytest.raises(InputError, match="holds a finished explainer: give another --out, or --resume false"):
        train(options(epochs=0, seed=1))
    assert (out / "attention.safetensors").read_bytes() == before
    train(options(epochs=0, seed=1, resume=False))
    assert read_metadata(out)["seed"] == 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"preset": "tam"}, "unknown preset 'tam'; did you mean 'tame'"),
        ({"backbone": "toy_cn"}, "unknown backbone 'toy_cn'; did you mean 'toy_cnn'"),
        ({"attention": "tame"}, "unknown attention mechanism 'tame'; did you mean 'ttame'"),
        ({"layers": "stage9"}, "stage9"),
        ({"precision": "16-mixed"}, "expected --precision 32 or bf16-mixed on the CPU, got '16-mixed'"),
        ({"init": "random", "trainable": "shared"}, "expected --init classifier, got random"),
        ({"attention": "ttame-no-skip"}, "ttame-no-skip cannot start from the classifier.*: use --init random"),
        ({"attention": "lcam"}, "unknown attention mechanism 'lcam'; did you mean 'lcam-"),
        ({"attention": "lcam-img", "layers": "paper"}, "expected one feature layer for L-CAM, got 3"),
        ({"attention": "lcam-fm", "trainable": "shared"}, "expected --trainable all for lcam-fm, got shared"),
        ({"attention": "lcam-fm-a", "loss": "paper"}, "trained with the cross-entropy alone, got --loss paper"),
        ({"attention": "lcam-fm", "masking": "vit"}, "masks features, no images: expected no --masking, got vit"),
        ({"data": ""}, "expected a folder of images: give --data, or set DATA"),
        ({"data": "/nowhere"}, "expected a folder in --data, got '/nowhere'"),
        ({"train_list": "missing.txt"}, "expected a list of images, got 'missing.txt'"),
        ({"batch_size": -1}, "expected a batch size of at least 1, got -1"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(options, tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        train(options(**choices))
    assert not (tmp_path / "run").exists()


def test_a_broken_photograph_is_named(options, photographs, tmp_path):
    file = photographs / "07.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cannot read .*07\.png"):
        train(options(init="random", preset="paper"))
    assert not (tmp_path / "run" / "attention.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "preset", "asked", "attention"),
    [
        ("cnn", "tame", "", "ttame"),
        ("vit", "tame", "", "ttame-smooth"),
        ("vit", "paper", "", "ttame"),
        ("vit", "tame", "lcam-img", "lcam-img"),
    ],
)
def test_the_mechanism_is_the_one_asked_for_or_the_presets(kind, preset, asked, attention):
    options = TrainOptions(preset=preset, attention=asked)
    assert with_attention(options, TOY_SPECS[kind]).attention == attention


def test_choices_are_the_preset_and_what_was_asked():
    assert resolve_choices(TrainOptions()) == ALL_PRESETS.get("tame")
    assert resolve_choices(TrainOptions(), tokens=True).max_lr == 0.05
    assert resolve_choices(TrainOptions(trainable="all"), tokens=True).max_lr == ALL_PRESETS.get("tame").max_lr
    assert resolve_choices(TrainOptions(lr=0.1), tokens=True).max_lr == 0.1
    choices = resolve_choices(TrainOptions(preset="released", epochs=3, lr=0.5, batch_size=7, loss="paper"))
    assert (choices.epochs, choices.max_lr, choices.batch_size, choices.loss) == (3, 0.5, 7, "paper")
    assert (choices.other_classes, choices.output_size) == ("batch", "first")
    assert resolve_choices(TrainOptions(init="random")).trainable == "all"
