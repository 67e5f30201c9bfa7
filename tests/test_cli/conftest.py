"""Fixtures of the command line's tests: a fresh folder, the command itself, and explainers to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.native import save_attention
from tame.cli.main import main

Result = tuple[int, str, str]
"""Exit status, standard output, standard error."""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither DATA nor LIST of this machine, and relative paths below a fresh folder."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tame(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run ``tame ...``; return the exit status, standard output and standard error."""

    def run(*arguments: Any) -> Result:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # of the parser's help
            status = int(error.code or 0)
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint for EfficientNet-Lite0, at random."""
    classifier = load_backbone("efficientnet_lite0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = build_attention("ttame", classifier.channels, 1000)
    details = {"attention": "ttame", "output_size": "largest"}
    return save_attention(tmp_path_factory.mktemp("lite"), ExplainedClassifier(classifier, attention), details)


@pytest.fixture
def toy_explainer(tame: Callable[..., Result], toy_backbone: str, photographs: Path, tmp_path: Path) -> Path:
    """Return a checkpoint for the toy backbone, made by the command line itself."""
    out = tmp_path / "toy run"
    toy = ("--backbone", toy_backbone, "--device", "cpu", "--num-workers", "0", "--init-images", "4")
    status, _, errors = tame("train", *toy, "--data", photographs, "--out", out, "--epochs", "0")
    assert status == 0, errors
    return out
