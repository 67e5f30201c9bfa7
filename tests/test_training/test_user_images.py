"""`tame.train` on the user's own network and Dataset or DataLoader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import tame
from tame.cli.main import main
from tame.data import Crop, load_image, walk_images
from tame.data.user_images import UserImages
from tame.functional.masking import min_max
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

PIXELS = TOY_SPECS["cnn"].preprocessing
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in (PIXELS.mean, PIXELS.std))


class Photos(Dataset[Any]):
    """The images of a folder as PIL images, with labels."""

    def __init__(self, folder: Path) -> None:
        self.paths = [entry.path for entry in walk_images(folder)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return load_image(self.paths[index]), index % 5


def tensors(folder: Path) -> Tensor:
    """Return the images of a folder, cropped (B, 3, 32, 32) in [0, 1]."""
    return torch.stack([Crop.of(PIXELS)(image) for image, _ in Photos(folder)])  # type: ignore[attr-defined]


def normalised(batch: list[Any]) -> dict[str, Tensor]:
    return {"pixel_values": torch.stack([(Crop.of(PIXELS)(image) - MEAN) / STD for image, _ in batch])}


def as_loaded(kind: str, folder: Path) -> tuple[Any, bool]:
    data: dict[str, tuple[Any, bool]] = {
        "photos": (Photos(folder), False),
        "list": ([image for image, _ in Photos(folder)], False),  # type: ignore[attr-defined]
        "tensors": (TensorDataset(tensors(folder)), False),
        "double": (TensorDataset(tensors(folder).double()), False),
        "normalised": (TensorDataset((tensors(folder) - MEAN) / STD), True),
        "loader": (DataLoader(TensorDataset(tensors(folder)), batch_size=7, shuffle=True), False),
        "collated": (DataLoader(Photos(folder), batch_size=3, collate_fn=normalised), True),
    }
    return data[kind]


@pytest.mark.parametrize("kind", ["photos", "list", "tensors", "double", "normalised", "loader", "collated"])
def test_the_same_as_on_the_images_in_a_folder(run_toy: Any, photographs: Path, tmp_path: Path, kind: str) -> None:
    """Order, validation images, batches: with the same seed the same mechanism is trained."""
    data, is_normalised = as_loaded(kind, photographs)
    found = run_toy(data=data, normalised=is_normalised, epochs=1, out=tmp_path / kind)
    expected = run_toy(epochs=1, out=tmp_path / "folder")
    files = [load_file(run.folder / "attention.safetensors") for run in (found, expected)]
    for name, value in files[1].items():
        torch.testing.assert_close(files[0][name], value, atol=1e-5, rtol=1e-4)
    assert found.metrics["val/rank/AD_50"] == pytest.approx(expected.metrics["val/rank/AD_50"], abs=0.05)
    count = len(list(walk_images(photographs)))
    listed = [(found.folder / name).read_text().split() for name in ("train.txt", "validation.txt")]
    assert sorted(int(word) for words in listed for word in words if word != "?") == list(range(count))
    assert json.loads((found.folder / "config.json").read_text())["data"].endswith(f"of {count} images in memory")


def test_a_network_in_memory_is_trained_and_used(photographs: Path, tmp_path: Path) -> None:
    network = ToyCNN()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    classifier = tame.FrozenClassifier.from_module(network, preprocess=PIXELS, classes=list("abcde"))
    data = TensorDataset(tensors(photographs))
    run = tame.train(classifier, data=data, epochs=1, batch_size=4, init_images=8, out=tmp_path / "run")
    image = tensors(photographs)[0]
    by_object = tame.explain(image, classifier, "c", method=run.explainer)
    by_folder = tame.explain(image, classifier, "c", checkpoint=run.folder)
    direct = run.explainer(image[None], torch.tensor([2]))[0]
    direct = (direct - direct.min()) / (direct.max() - direct.min())
    torch.testing.assert_close(torch.from_numpy(by_object.map), direct, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_folder.map, by_object.map, atol=1e-5, rtol=1e-4)
    assert by_object.target == 2 and by_object.method == "ttame"
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_ten_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(10, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    pixels = tame.Preprocessing(24, 24, mean=(0.4,) * 10, std=(0.2,) * 10)
    classifier = tame.FrozenClassifier.from_module(network, preprocess=pixels)
    data = TensorDataset((torch.rand(12, 10, 24, 24) - 0.4) / 0.2)
    run = tame.train(
        classifier, data=data, normalised=True, epochs=1, batch_size=4, init_images=4, out=tmp_path / "run"
    )  # fmt: skip
    assert 0 <= run.metrics["val/rank/AD_50"] <= 100
    image = torch.rand(10, 24, 24)
    explanation = tame.explain(image, classifier, 1, method=run.explainer)
    direct = run.explainer(image[None], [1])[0]
    assert explanation.map.shape == direct.shape == (22, 22)
    torch.testing.assert_close(torch.from_numpy(explanation.map), min_max(direct[None])[0], atol=1e-5, rtol=1e-4)


def test_a_subset_of_a_loader_is_used(photographs: Path) -> None:
    loader = DataLoader(Photos(photographs), sampler=SubsetRandomSampler([5, 2, 3]))
    assert UserImages.of(loader, False).indices == [2, 3, 5]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


IMAGES = TensorDataset(torch.rand(4, 3, 32, 32))


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (Stream(), {}, "expected a Dataset with a length and an index, got Stream"),
        (3, {}, "expected a Dataset with a length and an index, got int"),
        (DataLoader(IMAGES, batch_size=None), {}, "expected a DataLoader with a batch_size"),
        (
            DataLoader(IMAGES, sampler=WeightedRandomSampler([1.0] * 4, 4)),
            {},
            "expected a DataLoader that gives each image once, got a WeightedRandomSampler: give its Dataset",
        ),
        (
            DataLoader(IMAGES, sampler=RandomSampler(IMAGES, replacement=True)),
            {},
            "expected a DataLoader that gives each image once, got a RandomSampler",
        ),
        (TensorDataset(torch.randn(4, 3, 32, 32)), {}, r"in \[0, 1\], got values in .*: use normalised=True"),
        (
            TensorDataset(torch.full((4, 3, 32, 32), 9.0)),
            {"normalised": True},
            "expected images normalised by mean .* TensorDataset, got values in .* correct the mean and std",
        ),
        (TensorDataset(torch.rand(4, 3, 28, 28)), {}, r"expected tensors of shape \(3, 32, 32\), .* got \(3, 28, 28\)"),
        (TensorDataset(torch.rand(4, 1, 32, 32)), {}, r"expected images of shape \(B, 3, H, W\), got \(1, 1, 32, 32\)"),
        (["a.jpg", "b.jpg"], {}, r"expected samples \(image, label\) or dicts with one of image, .*, got str in list"),
        ([{"photo": 1}] * 4, {}, r"expected samples \(image, label\) or dicts .*, got NoneType in list"),
        (IMAGES, {"per_label": 3, "val_list": "x"}, "expected val_list, per_label only with a folder as data"),
        ("folder", {"normalised": True}, "expected normalised only with a Dataset or DataLoader as data"),
    ],
)
def test_what_is_refused(run_toy: Any, tmp_path: Path, data: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_toy(data=data, **changes)
    assert not (tmp_path / "run").exists()


def test_another_dataset_does_not_resume_a_run(run_toy: Any, photographs: Path, tmp_path: Path) -> None:
    run = run_toy(data=Photos(photographs), epochs=1)
    (run.folder / "attention.safetensors").unlink()
    with pytest.raises(InputError, match="dataset"):
        run_toy(data=TensorDataset(tensors(photographs)), epochs=1)


def test_the_configuration_of_a_run_on_a_dataset_is_refused_by_the_command(
    run_toy: Any, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_toy(data=Photos(photographs), epochs=0)
    assert main(["train", "--config", str(run.folder / "config.json"), "--out", str(run.folder / "again")]) == 2
    assert "images in memory" in capsys.readouterr().err
