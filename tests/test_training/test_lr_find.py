import csv
import json

import pytest
import torch

from tame.attention import build_attention
from tame.cli.main import main
from tame.training import lr_find as module
from tame.training.build import build
from tame.training.images import TrainingImages
from tame.training.lr_find import LrCurve, LrRange, lr_find, range_test, smooth, suggest
from tame.training.plan import Hardware, Output, resolve
from tame.training.recipe import Recipe
from tame.utils.checks import InputError


@pytest.fixture
def find(toy, photographs, tmp_path, monkeypatch):
    """Return ``find(steps=20, ...)``: a range test of the toy classifier, with ``tmp_path`` as the working folder."""
    monkeypatch.chdir(tmp_path)

    def run(**choices):
        return lr_find(toy(), **{"data": photographs, "batch_size": 4, "init_images": 8, "steps": 12, **choices})

    return run


def read(folder):
    with (folder / "lr_find.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rates_grow_exponentially_whatever_the_schedule_of_training(find, tmp_path):
    """12 steps are two epochs and a half; Lightning's ramp leaves out its second value."""
    found = find(min_lr=1e-4, max_lr=1e-1)
    assert found.curve.lrs == pytest.approx([1e-4] + [1e-4 * 1000 ** (step / 12) for step in range(2, 13)])
    rows = read(tmp_path / "runs" / "toy_cnn-lr-find")
    assert [float(row["lr"]) for row in rows] == found.curve.lrs
    assert [float(row["loss"]) for row in rows] == found.curve.losses
    assert [float(row["smoothed"]) for row in rows] == found.smoothed


def test_the_optimiser_steps_at_the_recorded_rate(find, monkeypatch):
    rates, momenta = [], []

    class Watching(module._Probe):
        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            momenta.extend(group["momentum"] for group in optimizer.param_groups)

    monkeypatch.setattr(module, "_Probe", Watching)
    found = find()
    assert rates == found.curve.lrs
    assert set(momenta) == {0.9}  # of no cycle


@pytest.mark.parametrize("choices", [{}, {"preset": "released"}, {"attention": "lcam-fm"}])
def test_the_model_is_untouched_and_nothing_is_left_behind(toy, photographs, tmp_path, choices):
    recipe = Recipe(epochs=1, batch_size=4, init_images=8, **choices)
    plan = resolve(toy(), TrainingImages(photographs), recipe, Hardware(), 0, Output(tmp_path / "run"))
    training = build(plan)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    files = sorted(tmp_path.rglob("*"))
    curve = range_test(training, LrRange(1e-3, 1.0, 12))
    after = training.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(curve.losses) == 12 and len(set(curve.losses)) > 6  # the rates did something, on other batches
    assert sorted(tmp_path.rglob("*")) == files


def test_files_of_the_user_are_not_written_over(find, tmp_path):
    file = tmp_path / "found" / "lr_find.csv"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(InputError, match=r"found holds lr_find\.csv, which no run wrote"):
        find(out="found")
    assert file.read_text() == "mine"
    file.write_text("lr,loss,smoothed\r\n1.0,1.0,1.0\r\n")  # of an earlier version, which noted no files
    find(out="found")


def test_only_the_two_files_are_written(find, tmp_path):
    before = set(tmp_path.rglob("*"))
    found = find(out="found")
    assert set(tmp_path.rglob("*")) - before == {
        tmp_path / "found", tmp_path / "found" / ".tame-files.json", tmp_path / "found" / "lr_find.csv",
        tmp_path / "found" / "lr_find.png",
    }  # fmt: skip
    assert found.folder.name == "found"
    assert (tmp_path / "found" / "lr_find.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("attention", ["ttame-no-skip", "lcam-img-a"])
def test_a_loss_that_explodes_ends_the_test(find, attention):
    """A mechanism whose weights overflow gives NaN; the curve ends before it."""
    found = find(attention=attention, init="random", min_lr=1.0, max_lr=1e38, steps=60, preset="released")
    assert len(found.curve.losses) < 60
    assert torch.tensor(found.curve.losses).isfinite().all()


def test_a_loss_that_is_never_finite_is_an_error(find, monkeypatch):
    def broken(*arguments):
        attention = build_attention(*arguments)
        for parameter in attention.parameters():
            parameter.data.fill_(torch.nan)
        return attention

    monkeypatch.setattr("tame.training.build.build_attention", broken)
    with pytest.raises(InputError, match=r"the loss is not finite at the smallest learning rate, 1e-05"):
        find(init="random", preset="released")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"min_lr": 0.0}, "expected 0 < min_lr < max_lr, got 0 and 10"),
        ({"min_lr": 1.0, "max_lr": 1.0}, "expected 0 < min_lr < max_lr, got 1 and 1"),
        ({"max_lr": float("nan")}, "expected 0 < min_lr < max_lr, got 1e-05 and nan"),
        ({"max_lr": float("inf")}, "got 1e-05 and inf"),
        ({"steps": 9}, "expected steps of at least 10, got 9"),
        ({"attention": "lcam-fm", "trainable": "shared"}, "expected trainable all for lcam-fm"),
        ({"data": "/nowhere"}, "expected a folder as data, got '/nowhere'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(find, tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        find(**choices)
    assert not (tmp_path / "runs").exists()


def test_a_file_as_the_folder_is_refused(find, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"expected a folder as out, got the file file$"):
        find(out="file")


def test_the_same_test_again_gives_the_same_curve(find):
    """In the folder of the first: nothing there is refused."""
    assert find().curve == find().curve
    assert find(seed=1).curve != find().curve


def test_smoothing_written_out():
    losses = [float(value) for value in torch.rand(50, generator=torch.Generator().manual_seed(0))]
    for place, found in enumerate(smooth(losses)):
        weights = [2.718281828459045 ** (-0.5 * ((place - other) / 2) ** 2) for other in range(50)]  # 2 = 50 / 25
        mean = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
        assert found == pytest.approx(mean)


LRS = [10 ** (-4 + step / 25) for step in range(101)]
NOISE = torch.randn(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def falling(middle, rise=1e9):
    """A loss that halves around one rate and explodes from another on."""
    return [2 - 1 / (1 + (middle / lr) ** 2) + (lr / rise) ** 4 for lr in LRS]


@pytest.mark.parametrize("middle", [1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_suggestion_is_where_the_loss_falls_most_steeply(middle, noise):
    losses = [value + noise * float(more) for value, more in zip(falling(middle, rise=0.5), NOISE, strict=True)]
    suggestion = suggest(LrCurve(LRS, losses))
    assert middle / 2 < suggestion < middle * 2
    assert suggestion in LRS


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 101,
        [1 + 0.3 * float(value) for value in NOISE],  # flat but for the batches
        [1 + step / 50 for step in range(101)],  # rises at once
        [1 + 1e-9 * (100 - step) for step in range(101)],
    ],
    ids=["constant", "noise", "rising", "as good as constant"],
)
def test_a_curve_that_says_nothing_gives_no_suggestion(losses):
    assert suggest(LrCurve(LRS, losses)) is None


def test_noise_alone_hardly_ever_gives_a_suggestion():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(300, 101, generator=generator)
    found = [suggest(LrCurve(LRS, draw.tolist())) for draw in draws]
    assert sum(one is not None for one in found) <= 6  # 2 %


@pytest.mark.parametrize(
    ("place", "words"), [(3, "Suggested learning rate: --lr 0.0005\n"), (None, "No learning rate can be suggested")]
)
def test_the_command_says_what_it_found(find, photographs, tmp_path, monkeypatch, capsys, place, words):
    """With arguments from the file of a training, some of which do not matter to a range test."""
    arguments = {"backbone": "toy_cnn", "data": str(photographs), "batch_size": 4, "init_images": 8, "steps": 12}
    unused = {"epochs": 3, "lr": 0.5, "limit_val_images": 4, "devices": 2, "resume": False}
    (tmp_path / "config.json").write_text(json.dumps(arguments | unused | {"device": "cpu"}))
    monkeypatch.setattr(module, "suggest", lambda curve: None if place is None else curve.lrs[place])
    assert main(["lr-find", "--config", "config.json", "--max-lr", "1.25", "--min-lr", "1e-5"]) == 0
    out = capsys.readouterr().out
    assert words.replace("0.0005", f"{1e-5 * 125000 ** (4 / 12):.2g}") in out
    assert "The curve is in runs/toy_cnn-lr-find: lr_find.png and lr_find.csv" in out
    assert len(read(tmp_path / "runs" / "toy_cnn-lr-find")) == 12
