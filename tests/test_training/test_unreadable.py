"""Broken images: named, counted and left out, as long as they are few."""

import lightning
import pytest

from tame.checkpoints.native import read_metadata
from tame.cli.main import main
from tame.training.lr_find import lr_find
from tame.utils.checks import InputError
from test_training.test_resume import assert_same_end


@pytest.fixture
def broken(photographs):
    """Return ``broken(name)``: damage an image of the folder."""

    def damage(name="07.png"):
        (photographs / name).write_bytes((photographs / name).read_bytes()[:200])
        return photographs / name

    return damage


def lists(tmp_path, validation=("20.png", "21.png", "22.png", "23.png")):
    """Return lists of the first 20 images, and of four others."""
    files = tmp_path / "train-list.txt", tmp_path / "val-list.txt"
    files[0].write_text("".join(f"{index:02}.png\n" for index in range(20)))
    files[1].write_text("".join(f"{name}\n" for name in validation))
    return {"train_list": files[0], "val_list": files[1]}


@pytest.mark.parametrize("batch_size", [4, 1])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_one_broken_training_image_is_left_out(run_toy, broken, tmp_path, caplog, batch_size, num_workers):
    file = broken()
    run = run_toy(batch_size=batch_size, init_images=20, num_workers=num_workers, **lists(tmp_path))
    (named,) = [message for message in caplog.messages if "07.png" in message]
    assert named.startswith(f"cannot read {file}: ") and named.endswith("; the training image is left out.")
    assert "1 training images could not be read and were left out." in caplog.messages
    assert read_metadata(run.folder)["unreadable"] == {"training": 1}


def test_a_broken_validation_image_is_not_counted(run_toy, broken, tmp_path):
    broken("22.png")
    run = run_toy(**lists(tmp_path), init="random")
    assert read_metadata(run.folder)["unreadable"] == {"validation": 1}
    without = run_toy(**lists(tmp_path, ("20.png", "21.png", "23.png")), out=tmp_path / "without", init="random")
    for part in ("minmax/AD_100", "rank/IC_50"):
        assert run.metrics[f"val/{part}"] == pytest.approx(without.metrics[f"val/{part}"], abs=0.01)
    assert "unreadable" not in read_metadata(without.folder)


def test_too_many_broken_images_end_the_run(run_toy, broken, tmp_path):
    for name in ("07.png", "08.png"):
        broken(name)
    message = (
        r"2 of 20 training images cannot be read, which is more than max_bad_images \(1 %\); the last one: cannot read"
    )
    with pytest.raises(InputError, match=message):
        run_toy(**lists(tmp_path), init="random")
    run_toy(**lists(tmp_path), init="random", max_bad_images=0.1, resume=False)


def test_none_may_be_broken(run_toy, broken, tmp_path):
    broken()
    with pytest.raises(InputError, match=r"1 of 20 training images .*max_bad_images \(0 %\)"):
        run_toy(**lists(tmp_path), max_bad_images=0, init_images=20)


def test_validation_needs_an_image(run_toy, broken, tmp_path):
    broken("20.png")
    with pytest.raises(InputError, match="1 of 1 validation images cannot be read"):
        run_toy(**lists(tmp_path, ("20.png",)))


def test_a_resumed_run_remembers_and_ends_the_same(run_toy, broken, tmp_path):
    class End(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                raise RuntimeError

    broken()
    whole = run_toy(out=tmp_path / "whole", **lists(tmp_path))
    with pytest.raises(RuntimeError):
        run_toy(End(), **lists(tmp_path))
    again = run_toy(**lists(tmp_path))
    assert_same_end(again, whole)
    assert read_metadata(again.folder)["unreadable"] == {"training": 1}


def test_a_range_test_leaves_broken_images_out(toy, photographs, broken, tmp_path):
    broken()
    found = lr_find(
        toy(), data=photographs, steps=10, batch_size=1, init_images=4, out=tmp_path / "found", max_bad_images=0.1
    )
    assert len(found.curve.losses) in (9, 10)


def test_the_command(photographs, broken, tmp_path, toy_backbone, capsys):
    broken()
    line = ["train", "--backbone", toy_backbone, "--device", "cpu", "--data", str(photographs), "--epochs", "1",
            "--out", str(tmp_path / "run"), "--max-bad-images", "0", "--init-images", "22"]  # fmt: skip
    assert main(line) == 2
    assert "of 22 training images cannot be read, which is more than max_bad_images (0 %)" in capsys.readouterr().err
