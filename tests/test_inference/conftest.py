"""Image files, explainers and checkpoints for the tests of explaining."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tame.inference.build
import tame.inference.grids
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import BACKBONES
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import save_attention
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import build_explainer
from tame.inference import NamedExplainer, explain_files
from tame.utils.checks import InputError
from toys import TOY_SPECS, seeded


@pytest.fixture(autouse=True)
def _fresh_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Return ``write_image(path, size, seed, **options)``, which writes an image of noise."""

    def write(path: Path, size: tuple[int, int] = (60, 40), seed: int = 0, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).save(path, **options)
        return path

    return write


@pytest.fixture
def noise_files(tmp_path: Path, write_image: Callable[..., Path]) -> list[Path]:
    """Four images of noise, of different sizes."""
    return [write_image(tmp_path / "in" / f"{index}.png", (60 + 5 * index, 40), index) for index in range(4)]


@pytest.fixture
def files(photographs: Path) -> list[Path]:
    """Twenty-four images of a bright disc."""
    return sorted(photographs.glob("*.png"))


@pytest.fixture
def toy_vit(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the toy transformer; it is shown a larger part of an image than the toy CNN."""
    spec = seeded(TOY_SPECS["vit"])
    spec = replace(spec, preprocessing=replace(spec.preprocessing, resize=32))
    monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
    return spec.name


@pytest.fixture
def methods(toy_classifier: Any) -> Callable[..., list[NamedExplainer]]:
    """Return ``methods("gradcam", ...)`` of one toy classifier."""
    classifier = toy_classifier()

    def make(*names: str) -> list[NamedExplainer]:
        return [NamedExplainer(classifier, build_explainer(classifier, name), name, "tame") for name in names]

    return make


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the methods that are built."""
    asked: list[Any] = []
    build = tame.inference.build.build_explainer

    def record(classifier: Any, method: Any, **arguments: Any) -> CheckedExplainer:
        asked.append(method)
        return build(classifier, method, **arguments)

    monkeypatch.setattr(tame.inference.build, "build_explainer", record)
    return asked


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record what grids are drawn from: rows of pictures, row titles, column titles, side."""
    drawn: list[Any] = []
    draw = tame.inference.grids.grid
    monkeypatch.setattr(tame.inference.grids, "grid", lambda *given: drawn.append(given) or draw(*given))
    return drawn


@pytest.fixture
def trained(toy_backbone: str) -> Callable[..., str]:
    """Return ``trained(backbone, folder, layers, attention)``, which writes the checkpoint of a random mechanism."""

    def write(
        backbone: str, folder: str | None = None, layers: Sequence[str] | None = None, attention: str = "ttame"
    ) -> str:
        folder = folder or f"runs/{backbone}"
        classifier = load_classifier(backbone, layers=layers, device="cpu")
        mechanism = build_attention(attention, classifier.channels, classifier.spec.num_classes)
        details = {"attention": attention, "output_size": "largest", "preset": "tame"}
        save_attention(Path(folder), ExplainedClassifier(classifier, mechanism), details)
        return folder

    return write


@pytest.fixture
def explained() -> Callable[..., list[dict[str, Any]]]:
    """Return ``explained(*files, **arguments)``: `explain_files` on the CPU; it returns the manifest."""

    def run(*images: Path, out: str = "explanations", **arguments: Any) -> list[dict[str, Any]]:
        report = explain_files(images, out=out, device="cpu", progress=False, **arguments)
        assert report.failures == []
        manifest: list[dict[str, Any]] = json.loads((Path(out) / "manifest.json").read_text())
        assert manifest == report.entries
        return manifest

    return run


@pytest.fixture
def refused() -> Callable[..., str]:
    """Return ``refused(*files, **arguments)``: `explain_files` raises and writes nothing; it returns the message."""

    def run(*images: Path, **arguments: Any) -> str:
        before = sorted(Path().rglob("*"))
        with pytest.raises(InputError) as caught:
            explain_files(images, **{"device": "cpu", "progress": False, **arguments})
        assert sorted(Path().rglob("*")) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run
