"""Fixtures of all tests: toy classifiers, the reference files, one thread, fixed seeds, no network."""

from __future__ import annotations

import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tame.backbones import BACKBONES
from tame.classifier import FrozenClassifier
from toys import TOY_SPECS, seeded

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

torch.set_num_threads(1)  # toy models gain nothing from more, and workers of xdist share the cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script started in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the reference files, and skip what this machine cannot run."""
    for item in items:
        if "shared_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="no folder `shared` beside the checkout"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may draw from it
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget modules that a test wrote into its working folder: another test may write one of the same name."""
    before, folder = set(sys.modules), tmp_path_factory.getbasetemp()
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the folders of data and lists that the shell may name."""
    for name in ("DATA", "LIST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine: a test that downloads is a mistake."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests may not use the network, asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder of the reference numbers, weights and photographs; mark its tests with ``shared``."""
    return SHARED


@pytest.fixture
def toy_classifier() -> Callable[..., FrozenClassifier]:
    """Return ``toy_classifier("cnn" or "vit", layers=..., seed=0)``: 5 classes, images of 3 x 32 x 32.

    ``layers`` is the name of a tap set of the spec or a sequence of module names.
    """

    def make(kind: str = "cnn", layers: str | Sequence[str] = "proposed", seed: int = 0) -> FrozenClassifier:
        spec = TOY_SPECS[kind]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = spec.build()
        names = spec.layers[layers] if isinstance(layers, str) else layers
        return FrozenClassifier(spec, module, names, weights="random")

    return make


@pytest.fixture
def toy_images() -> Tensor:
    """Four images of 3 x 32 x 32 in [0, 1]."""
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def toy_backbone(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the toy CNN under its name, with the same random weights each time, while the test runs."""
    spec = seeded(TOY_SPECS["cnn"])
    monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
    return spec.name


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Folder of 24 generated photographs, a bright disc somewhere on noise each."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:36, :40]
    for index in range(24):
        values = generator.integers(0, 120, (36, 40, 3))
        centre = generator.integers(10, 28, 2)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 64
        values[disc] += generator.integers(0, 136, 3)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{index:02}.png")
    return folder
