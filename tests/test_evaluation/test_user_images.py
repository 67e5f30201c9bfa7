"""Evaluations of the user's own network on a Dataset or DataLoader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import tame
from tame.data import Crop, load_image, walk_images
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

PIXELS = TOY_SPECS["cnn"].preprocessing
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in (PIXELS.mean, PIXELS.std))


@pytest.fixture
def classifier() -> tame.FrozenClassifier:
    torch.manual_seed(0)
    return tame.FrozenClassifier.from_module(ToyCNN(3), preprocess=PIXELS)


def tensors(folder: Path) -> Tensor:
    """Return the images of a folder, cropped, (B, 3, 32, 32) in [0, 1]."""
    return torch.stack([Crop.of(PIXELS)(load_image(entry.path)) for entry in walk_images(folder)])


@pytest.mark.parametrize("kind", ["dataset", "loader", "normalised"])
def test_the_same_as_on_the_images_in_a_folder(
    classifier: tame.FrozenClassifier, photographs: Path, tmp_path: Path, kind: str
) -> None:
    files = tame.evaluate("gradcam", classifier, data=photographs, metrics=["ad-ic", "road"], out=tmp_path / "files")
    images = tensors(photographs)
    data: Any = TensorDataset((images - MEAN) / STD if kind == "normalised" else images)
    data = DataLoader(data, 5, shuffle=True) if kind == "loader" else data
    found = tame.evaluate(
        "gradcam",
        classifier,
        data=data,
        normalised=kind == "normalised",
        metrics=["ad-ic", "road"],
        out=tmp_path / kind,
    )
    assert_frame_equal(found, files, rtol=1e-4, atol=1e-4)
    rows = tame.read_run(tmp_path / kind)
    assert rows["file"].tolist() == [str(index) for index in range(len(images))]
    assert rows.attrs["summary"]["settings"]["list"] == f"TensorDataset of {len(images)} images in memory"


def test_ten_channels(tmp_path: Path) -> None:
    pixels = tame.Preprocessing(32, 32, mean=(0.5,) * 10, std=(0.2,) * 10)
    net = torch.nn.Sequential(torch.nn.Conv2d(10, 3, 1), ToyCNN(3))
    classifier = tame.FrozenClassifier.from_module(net, preprocess=pixels)
    images = torch.rand(4, 10, 32, 32, generator=torch.Generator().manual_seed(0))
    found = tame.evaluate("gradcam", classifier, data=TensorDataset(images), out=tmp_path)
    assert found["images"].tolist() == [4]
    p = classifier.logits(images).softmax(1).amax(1)
    assert tame.read_run(tmp_path)["p"].tolist() == pytest.approx(p.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": "correct"}, "expected list and only correct with a folder as data, got a Dataset"),
        ({"list": "mine.txt"}, "expected list and only correct with a folder as data, got a Dataset"),
        ({"data": "photos", "normalised": True}, "expected normalised only with a Dataset or DataLoader as data"),
    ],
)
def test_what_is_refused(
    classifier: tame.FrozenClassifier, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    data = TensorDataset(torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match=message):
        tame.evaluate("gradcam", classifier, **{"data": data, "out": tmp_path} | arguments)
