"""A network of the user's own, from a file, with everything said on the command line: trained, then explained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import read_metadata
from toys import ToyCNN

NETWORK = """
from toys import ToyCNN

def build():
    return ToyCNN(3)
"""
OWN = (
    "--backbone", "./mynet.py:build", "--class-names", "names.txt", "--num-classes", 3, "--input-size", "24x32",
    "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6", "--weights", "own.ckpt", "--device", "cpu",
)  # fmt: skip


@pytest.fixture
def trained(tame: Callable[..., tuple[int, str, str]], photographs: Path, tmp_path: Path) -> str:
    """Train in tmp_path / "home"; return the command that was printed."""
    torch.manual_seed(1)
    torch.save({"state_dict": {f"model.{k}": v for k, v in ToyCNN(3).state_dict().items()}}, tmp_path / "own.ckpt")
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "names.txt").write_text("cat, small\ndog\nbird\n")
    status, output, errors = tame(
        "train", *OWN, "--data", photographs, "--epochs", 0, "--init-images", 4, "--out", "runs/mine"
    )
    assert status == 0, errors
    return output.strip().rpartition("use it with: ")[2]


def test_naming_the_code_is_enough(
    tame: Callable[..., tuple[int, str, str]],
    trained: str,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert trained == "tame explain --backbone ./mynet.py:build --checkpoint runs/mine"
    (tmp_path / "elsewhere").mkdir()
    command = ["explain", photographs / "00.png", "--checkpoint", tmp_path / "runs" / "mine", "--device", "cpu"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, _, errors = tame(*command)
    assert status == 2
    assert "built by code" in errors and "name this code as the backbone to run it" in errors
    code = ("--backbone", tmp_path / "mynet.py:build")
    status, output, errors = tame(*command, *code, "--target", "cat, small")
    assert status == 0, errors
    assert "cat, small (0)" in output
    (entry,) = json.loads(Path("explanations/manifest.json").read_text())
    assert (entry["backbone"], entry["class_name"]) == ("mynet.py:build", "cat, small")
    status, _, errors = tame(
        "evaluate", "--data", photographs, "--checkpoint", tmp_path / "runs" / "mine", "--device", "cpu",
        "--limit-images", 4, *code,
    )  # fmt: skip
    assert status == 0, errors


def test_the_checkpoint_alone_is_enough_where_no_code_is_named(
    tame: Callable[..., tuple[int, str, str]], photographs: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    torch.save({"model": resnet18(num_classes=3).state_dict()}, tmp_path / "own.pth")
    (tmp_path / "names.txt").write_text("cat, small\ndog\nbird\n")
    status, output, errors = tame(
        "train", "--backbone", "resnet18", "--class-names", "names.txt", "--input-size", 32, "--weights", "own.pth",
        "--device", "cpu", "--data", photographs, "--epochs", 0, "--init-images", 4, "--out", "run",
    )  # fmt: skip
    assert status == 0, errors
    command = output.strip().rpartition("use it with: ")[2]
    assert command == "tame explain --checkpoint run"
    status, output, errors = tame(*shlex.split(command)[1:], photographs / "00.png", "--device", "cpu")
    assert status == 0, errors
    (entry,) = json.loads(Path("explanations/manifest.json").read_text())
    assert entry["backbone"] == "resnet18"
    assert entry["class_name"] in ("cat, small", "dog", "bird")


def test_what_a_checkpoint_records_of_its_classifier(trained: str, tmp_path: Path) -> None:
    recorded = read_metadata(tmp_path / "runs" / "mine")["classifier"]
    assert recorded == {
        "backbone": f"{tmp_path}/mynet.py:build",
        "weights": f"{tmp_path}/own.ckpt",
        "num_classes": 3,
        "class_names": ["cat, small", "dog", "bird"],
        "input_size": "24x32",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    code = tmp_path / "mynet.py:build"
    classifier = load_classifier(code, checkpoint=tmp_path / "runs" / "mine", device="cpu")
    preprocessing = classifier.spec.preprocessing
    assert (preprocessing.size, preprocessing.mean) == ((24, 32), (0.1, 0.2, 0.3))
    assert classifier.spec.class_names == ("cat, small", "dog", "bird")
