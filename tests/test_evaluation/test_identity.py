"""User code, map files and everything else that a run's numbers depend on are part of its identity."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import tame
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import save_attention
from tame.classifier import FrozenClassifier
from tame.evaluation import Summary, open_run
from tame.evaluation.evaluate import evaluate
from tame.explainers.base import CheckedExplainer
from tame.explainers.controls import centre_maps
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither DATA nor LIST of this machine, and relative paths below a fresh folder."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def measure(method: Any = "centre", **options: Any) -> Summary:
    """Evaluate a method on the CPU and return the summary of its run."""
    classifier = options.pop("classifier", None) or load_classifier("toy_cnn", device="cpu")
    table = evaluate(method, classifier, **{"data": "photographs", "out": "run", "progress": False} | options)
    (folder,) = table.attrs["folders"].values()
    return open_run(folder).summary


@pytest.fixture
def labelled(photographs: Path, toy_backbone: str) -> Path:
    """A list of half of the photographs; the classifier is right about every second one."""
    names = [f"{index:02}.png" for index in range(0, 24, 2)]
    measure(out="plain")
    rows = open_run("plain").rows
    said = dict(zip(rows.files, rows.columns["target"].astype(int), strict=True))
    lines = [f"{name} {said[name] if number % 2 == 0 else (said[name] + 1) % 5}" for number, name in enumerate(names)]
    path = photographs.parent / "half.txt"
    path.write_text("\n".join(lines))
    return path


def in_the_middle(images: Tensor, targets: Tensor) -> Tensor:
    return centre_maps(images)


def trained(folder: str = "explainer") -> Path:
    """Save an attention mechanism of the toy classifier."""
    classifier = load_backbone("toy_cnn")
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
    return save_attention(Path(folder), model, {"attention": "ttame", "output_size": "largest"})


def command(*arguments: str) -> dict[str, Any]:
    """Return how to start the command line in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(tame.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return {"args": [sys.executable, "-m", "tame", *arguments], "env": environment}


def test_an_edited_function_is_not_taken_for_its_earlier_self(toy_classifier: Make, photographs: Path) -> None:
    classifier, common = toy_classifier(), {"data": str(photographs), "limit_images": 3, "progress": False}

    def build(sign: float) -> Any:
        def own(images: Tensor, targets: Tensor) -> Tensor:
            return sign * centre_maps(images)

        return own

    first = tame.evaluate(build(1), classifier, **common)
    again = tame.evaluate(build(1), classifier, **common)
    assert again.equals(first)
    with pytest.raises(InputError, match="holds a run with other settings: code_sha256 .*start over"):
        tame.evaluate(build(-1), classifier, **common)
    edited = tame.evaluate(build(-1), classifier, resume=False, **common)
    assert edited.loc["own", "rank/AD_15"] != first.loc["own", "rank/AD_15"]


def test_an_edited_explainer_is_not_taken_for_its_earlier_self(toy_classifier: Make, photographs: Path) -> None:
    class Own(CheckedExplainer):
        def __init__(self, classifier: FrozenClassifier, sign: float) -> None:
            super().__init__(classifier)
            self.sign = sign

        def explain(self, images: Tensor, targets: Tensor) -> Tensor:
            return self.sign * centre_maps(images)

    classifier, common = toy_classifier(), {"data": str(photographs), "limit_images": 3, "progress": False}
    first = tame.evaluate(Own(classifier, 1), **common)
    assert tame.evaluate(Own(classifier, 1), **common).equals(first)
    with pytest.raises(InputError, match="holds a run with other settings: code_sha256"):
        tame.evaluate(Own(classifier, -1), **common)


def test_an_edited_module_is_noticed(toy_backbone: str, photographs: Path) -> None:
    text = "from tame.explainers.controls import centre_maps\ndef middle(images, targets): return centre_maps(images)\n"
    Path("edited_method.py").write_text(text)
    try:
        measure("edited_method:middle")
        measure("edited_method:middle")
        Path("edited_method.py").write_text(text.replace("return", "return -"))
        with pytest.raises(InputError, match="holds a run with other settings: code_sha256"):
            measure("edited_method:middle")
    finally:
        sys.modules.pop("edited_method", None)
