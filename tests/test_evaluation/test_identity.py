"""User code, map files and everything else that a run's numbers depend on are part of its identity."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import tame
from small_runs import measure
from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.controls import centre_maps
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


@pytest.fixture(autouse=True)
def _fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths are below a fresh folder."""
    monkeypatch.chdir(tmp_path)


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
