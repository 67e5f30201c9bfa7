"""`tame.train` from images to a checkpoint: what it leaves, what it is given, and what it refuses."""

import csv
import json

import lightning
import pytest
import torch
from safetensors.torch import load_file

import tame
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.native import load_attention, read_metadata
from tame.classifier import FrozenClassifier
from tame.cli.main import main
from tame.data import read_list
from tame.training.plan import Hardware
from tame.utils.checks import InputError
from toys import ToyCNN


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
def test_training_from_images_to_a_checkpoint(run_toy, toy_backbone, tmp_path, name):
    run = run_toy(**PRESETS[name])
    out = run.folder
    assert out == tmp_path / "run"
    metadata = read_metadata(out)
    classifier = load_backbone(toy_backbone, layers=metadata["layers"])
    model = ExplainedClassifier(classifier, load_attention(out, classifier))
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 4])
    maps = model.maps(images, targets)
    assert maps.std((1, 2)).min() > 0  # not constant
    torch.testing.assert_close(run.explainer(images, targets), maps, atol=1e-6, rtol=1e-5)
    assert (run.explainer.method, run.explainer.arguments) == ("ttame", {"checkpoint": str(out)})
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
    assert len(accuracies) == 3 and all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert any(row.get("lr-SGD") or row.get("lr-SGD/pg1") for row in rows)


def test_training_learns(run_toy):
    out = run_toy(epochs=6, preset="released", batch_size=8).folder
    totals = [float(row["val/total"]) for row in logged(out) if row["val/total"]]
    assert totals[-1] < totals[0]


def test_the_split_is_written_and_can_be_given_again(run_toy, photographs, tmp_path):
    out = run_toy(epochs=0).folder
    train_list, val_list = (read_list(out / f"{part}.txt", photographs, 5) for part in ("train", "validation"))
    assert (len(train_list), len(val_list)) == (22, 2)  # 10 % of 24
    assert sorted(path.name for path, _ in train_list + val_list) == [f"{index:02}.png" for index in range(24)]
    assert all(label is None for _, label in train_list)
    again = run_toy(
        epochs=0, train_list=out / "train.txt", val_list=str(out / "validation.txt"), out=str(tmp_path / "again")
    ).folder
    keys = "train_list_sha256", "val_list_sha256"
    assert [read_metadata(again)[key] for key in keys] == [read_metadata(out)[key] for key in keys]
    assert (again / "validation.txt").read_text() == (out / "validation.txt").read_text()


def test_limits_draw_images(run_toy):
    out = run_toy(epochs=0, limit_images=7, limit_val_images=1).folder
    assert len((out / "train.txt").read_text().splitlines()) == 7
    assert len((out / "validation.txt").read_text().splitlines()) == 1
    assert read_metadata(out)["images"] == 7


def test_no_epochs_write_the_initialisation(run_toy, toy_backbone):
    run = run_toy(epochs=0)
    out = run.folder
    assert sorted(path.name for path in out.iterdir()) == [
        ".tame-files.json", "attention.safetensors", "config.json", "metadata.json", "settings.json", "train.txt",
        "validation.txt",
    ]  # fmt: skip
    state = load_file(out / "attention.safetensors")
    assert not any("shared_row" in name for name in state)
    assert all(not state[f"bns.{index}.weight"].any() for index in range(3))  # branches start as their input
    load_attention(out, load_backbone(toy_backbone))
    assert run.metrics == {} and "metrics" not in read_metadata(out)


def test_what_a_run_leaves(run_toy):
    run = run_toy(preset="released")
    out = run.folder
    assert sorted(path.name for path in out.iterdir()) == [
        ".tame-files.json", "attention.safetensors", "config.json", "last", "lightning", "logs", "metadata.json",
        "settings.json", "train.txt", "training.png", "validation.txt",
    ]  # fmt: skip
    best, last = (read_metadata(folder) for folder in (out, out / "last"))
    assert (run.metrics, run.initial_metrics, run.epoch) == (best["metrics"], best["initial_metrics"], best["epoch"])
    for metrics in best["metrics"], best["initial_metrics"], last["metrics"], last["initial_metrics"]:
        assert {"val/total", "val/masked_accuracy", "val/minmax/AD_100", "val/rank/IC_15"} <= metrics.keys()
    assert best["metrics"]["val/rank/AD_50"] <= last["metrics"]["val/rank/AD_50"]
    assert last["metrics"]["val/total"] != last["initial_metrics"]["val/total"]
    for file in (out / "lightning").iterdir():
        assert file.name in ("best.ckpt", "last.ckpt")
        state = torch.load(file, weights_only=True)["state_dict"]
        assert state and all(name.startswith("model.attention.") for name in state)


def test_metrics_of_a_single_epoch_are_all_of_them(run_toy):
    run = run_toy(epochs=1)
    assert {"val/total", "val/rank/AD_50"} <= run.metrics.keys()
    assert run.metrics == read_metadata(run.folder)["metrics"]


def test_the_best_epoch_is_kept(run_toy):
    """A monitored value that rises makes the first epoch the best one."""

    class Rising(lightning.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/rising", float(trainer.current_epoch))

    run = run_toy(Rising(), "val/rising", epochs=3, preset="released")
    out = run.folder
    assert read_metadata(out)["epoch"] == 1
    assert read_metadata(out / "last")["epoch"] == 3
    best, last = (load_file(folder / "attention.safetensors") for folder in (out, out / "last"))
    assert not torch.equal(best["fuser.weight"], last["fuser.weight"])
    assert torch.equal(run.explainer.model.attention.fuser.weight, best["fuser.weight"])


# --- the classifier


def test_a_name_and_a_loaded_classifier_train_the_same(run_toy, toy_backbone, photographs, tmp_path):
    loaded = run_toy(epochs=0)
    named = tame.train(toy_backbone, data=photographs, epochs=0, init_images=8, out=tmp_path / "named", lr=0.05)
    one, other = (load_file(run.folder / "attention.safetensors") for run in (loaded, named))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_network_of_ones_own(photographs, tmp_path):
    network = ToyCNN()
    run = tame.train(network, data=photographs, epochs=1, batch_size=8, init_images=4, out=tmp_path / "run")
    assert read_metadata(run.folder)["backbone"] == "ToyCNN"
    shared = dict(run.explainer.classifier.module.named_parameters())
    assert all(shared[name].data_ptr() == value.data_ptr() for name, value in network.named_parameters())
    assert run.explainer(torch.rand(1, 3, 224, 224), torch.tensor([3])).isfinite().all()
    assert json.loads((run.folder / "config.json").read_text())["backbone"] == "ToyCNN"


def test_layers_are_those_of_the_preset_or_of_the_user(run_toy, toy, photographs, tmp_path):
    assert read_metadata(run_toy(epochs=0).folder)["layers"] == ["stage1", "stage2", "stage3"]
    named = run_toy(epochs=0, layers=["stage2", "stage3"], out=tmp_path / "named")
    assert read_metadata(named.folder)["layers"] == ["stage2", "stage3"]
    classifier = toy()
    own = FrozenClassifier(classifier.spec, classifier.module, ["stage3"])
    run = tame.train(own, data=photographs, epochs=0, out=tmp_path / "own")
    assert read_metadata(run.folder)["layers"] == ["stage3"]


def test_the_classifier_is_left_as_it_was(run_toy, toy):
    before = {name: value.clone() for name, value in toy().state_dict().items()}
    classifier = run_toy().explainer.classifier
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(part.training for part in classifier.modules())


@pytest.mark.gpu
def test_the_classifier_stays_on_its_device(run_toy, toy):
    """Lightning itself leaves what it trained on the CPU."""
    classifier = toy(device="cuda")
    run = run_toy(classifier=classifier)
    assert {value.device.type for value in run.explainer.model.state_dict().values()} == {"cuda"}
    assert {value.device.type for value in classifier.state_dict().values()} == {"cuda"}
    images = torch.rand(2, 3, 32, 32, device="cuda")
    assert run.explainer(images, torch.tensor([0, 4], device="cuda")).device.type == "cuda"


def test_random_weights_are_drawn_after_those_of_an_untrained_classifier(toy_classifier, photographs, tmp_path):
    """As in earlier versions, which loaded the classifier after seeding: a seed still gives the same mechanism."""
    classifier = toy_classifier()
    run = tame.train(classifier, data=photographs, preset="paper", epochs=0, seed=3, out=tmp_path / "run")
    torch.manual_seed(3)
    ToyCNN()
    expected = build_attention("ttame", classifier.channels, 5).state_dict()
    found = load_file(run.folder / "attention.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


# --- the configuration


def test_the_configuration_has_what_was_given(run_toy, photographs, tmp_path):
    config = json.loads((run_toy(epochs=1, attention="lcam-img", layers=["stage2"]).folder / "config.json").read_text())
    assert config == {
        "backbone": "toy_cnn", "layers": ["stage2"], "data": str(photographs), "preset": "tame",
        "attention": "lcam-img", "init_images": 8, "epochs": 1, "batch_size": 4, "lr": 0.05, "devices": 1,
        "max_bad_images": 0.01, "num_nodes": 1, "strategy": "auto", "precision": "auto", "num_workers": 0, "seed": 0,
        "logger": ["csv", "tensorboard"], "resume": True, "out": str(tmp_path / "run"),
    } | ({"device": "cpu"} if torch.cuda.is_available() else {})  # fmt: skip


@pytest.mark.parametrize("choices", [{}, {"attention": "lcam-fm", "layers": ["stage2"]}, {"preset": "paper"}])
def test_the_configuration_repeats_the_run(run_toy, tmp_path, choices):
    first = run_toy(epochs=1, **choices).folder
    assert main(["train", "--config", str(first / "config.json"), "--out", str(tmp_path / "again")]) == 0
    one, other = (load_file(folder / "attention.safetensors") for folder in (first, tmp_path / "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert read_metadata(first)["metrics"] == read_metadata(tmp_path / "again")["metrics"]


# --- what is refused


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"preset": "tam"}, "unknown preset 'tam'; did you mean 'tame'"),
        ({"backbone": "toy_cn"}, "unknown backbone 'toy_cn'; did you mean 'toy_cnn'"),
        ({"attention": "tame"}, "unknown attention mechanism 'tame'; did you mean 'ttame'"),
        ({"layers": ["stage9"]}, "stage9"),
        ({"precision": "16-mixed"}, "32 or bf16-mixed on the CPU, got '16-mixed'"),
        ({"init": "random", "trainable": "shared"}, "expected init classifier, got random"),
        ({"attention": "ttame-no-skip"}, "ttame-no-skip cannot start from the classifier.*: use init random"),
        ({"attention": "lcam"}, "unknown attention mechanism 'lcam'; did you mean 'lcam-"),
        ({"attention": "lcam-img", "layers": "paper"}, "expected one feature layer for L-CAM, got 3"),
        ({"attention": "lcam-fm", "trainable": "shared"}, "expected trainable all for lcam-fm, got shared"),
        ({"attention": "lcam-fm-a", "loss": "paper"}, "trained with the cross-entropy alone, got loss paper"),
        ({"attention": "lcam-fm", "masking": "vit"}, "masks features, not images: expected no masking, got vit"),
        ({"data": None}, "expected a folder of images: name it with data, or set DATA"),
        ({"data": "/nowhere"}, "expected a folder as data, got '/nowhere'"),
        ({"train_list": "missing.txt"}, "expected a list of images, got 'missing.txt'"),
        ({"batch_size": -1}, "expected batch_size of at least 1, got -1"),
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
        ({"epochs": -1}, "expected epochs of at least 0, got -1"),
        ({"lr": 0.0}, "expected lr above 0, got 0"),
        ({"lr": float("nan")}, "expected lr above 0, got nan"),
        ({"clip": -1.0}, "expected clip of at least 0, got -1"),
        ({"init_images": 0}, "expected init_images of at least 1, got 0"),
        ({"limit_images": 0}, "expected limit_images of at least 1, got 0"),
        ({"limit_val_images": -3}, "expected limit_val_images of at least 1, got -3"),
        ({"per_label": 0}, "expected per_label of at least 1, got 0"),
        ({"max_bad_images": 1.5}, "expected max_bad_images, a fraction of the images, from 0 to 1, got 1.5"),
        ({"max_bad_images": float("nan")}, "expected max_bad_images, a fraction of the images, from 0 to 1, got nan"),
        (
            {"logger": ["cvs"]},
            r"expected logger, one or several of csv, tensorboard, wandb, mlflow, none, got \['cvs'\]",
        ),
        ({"logger": ["csv", "none"]}, "expected logger none alone, got csv, none"),
        ({"lr": -3.0}, "expected lr above 0, got -3"),
        ({"epochs": 10**12}, "expected epochs of at most 2147483647, got 1000000000000"),
        ({"clip": float("nan")}, "expected clip of at least 0, got nan"),
        ({"devices": 0}, "expected devices from 1 to [0-9]+, got 0"),
        ({"devices": -1}, "expected devices from 1 to [0-9]+, got -1"),
        ({"devices": 500}, "expected devices from 1 to [0-9]+, got 500"),
        ({"num_nodes": 0}, "expected num_nodes from 1 to 65536, got 0"),
        ({"strategy": "foo"}, "expected strategy auto or ddp or ddp_fork, got 'foo'"),
        ({"precision": "8"}, "expected precision auto or 32 or 16-mixed or bf16-mixed, got '8'"),
        ({"num_workers": -1}, "expected num_workers from 0 to [0-9]+, got -1"),
        ({"num_workers": 10**6}, "expected num_workers from 0 to [0-9]+, got 1000000"),
        ({"seed": -1}, "expected seed from 0 to 4294967295, got -1"),
        ({"seed": 2**64}, "expected seed from 0 to 4294967295, got 18446744073709551616"),
        ({"init": "zero"}, "expected init random or classifier, got 'zero'"),
        ({"loss": "best"}, "expected loss paper or released or ranked or cross-entropy, got 'best'"),
        ({"masking": "cnns"}, "expected masking cnn or vit, got 'cnns'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(run_toy, tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        run_toy(**choices)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "choices", [{"lr": -1.0}, {"epochs": -2}, {"clip": -1.0}, {"devices": 0}, {"strategy": "foo"}, {"seed": -1}]
)
def test_numbers_are_checked_before_the_classifier_is_loaded(monkeypatch, choices):
    monkeypatch.setattr("tame.training.plan.load_classifier", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError, match="expected"):
        tame.train("resnet50", data="/nowhere", **choices)


def test_more_devices_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="expected devices of at most 2, the number of CUDA devices, got 3"):
        Hardware(devices=3).check_on("cuda")


def test_a_file_as_the_folder_is_named_before_the_images_are_read(run_toy, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match=r"expected a folder as out, got the file .*file"):
        run_toy(out=file, data="/nowhere")
    assert file.read_text() == "mine"
