"""What `tame.explain` takes as images: one or several, in files or in memory, of any number of channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tame.classifier import FrozenClassifier, Preprocessing
from tame.data import Crop, array_to_photo, load_image
from tame.explainers import build_explainer
from tame.functional.masking import min_max
from tame.inference import Explanation, explain
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

PIXELS = TOY_SPECS["cnn"].preprocessing
MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in (PIXELS.mean, PIXELS.std))
COUNT = 11  # more than one batch


@pytest.fixture
def classifier(toy_classifier: Callable[..., FrozenClassifier]) -> FrozenClassifier:
    return toy_classifier()


@pytest.fixture
def images() -> Tensor:
    """Images of the classifier's input size."""
    return torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def check(found: list[Explanation], classifier: FrozenClassifier, images: Tensor, targets: Tensor) -> None:
    """Compare explanations with maps and scores computed for these inputs."""
    maps = min_max(build_explainer(classifier, "gradcam")(images, targets))
    confidences = classifier.logits(images).softmax(1)[torch.arange(len(images)), targets]
    assert [one.target for one in found] == targets.tolist()
    torch.testing.assert_close(torch.tensor([one.confidence for one in found]), confidences, atol=1e-5, rtol=1e-5)
    for one, map in zip(found, maps, strict=True):
        if one.note is None:
            torch.testing.assert_close(torch.from_numpy(one.map), map, atol=1e-4, rtol=1e-4)


def as_given(kind: str, images: Tensor) -> tuple[Any, bool]:
    data: dict[str, tuple[Any, bool]] = {
        "batch": (images, False),
        "double": (images.double(), False),
        "list": (list(images), False),
        "tuple": (tuple(images), False),
        "normalised": ((images - MEAN) / STD, True),
        "loader": (DataLoader(TensorDataset(images, torch.zeros(COUNT)), batch_size=4), False),
        "plain loader": (DataLoader(list(images), batch_size=20), False),  # type: ignore[arg-type]
        "dataset": (TensorDataset(images, torch.zeros(COUNT)), False),
        "normalised dicts": (DataLoader([{"pixel_values": (image - MEAN) / STD} for image in images], 3), True),  # type: ignore[arg-type]
    }
    return data[kind]


@pytest.mark.parametrize(
    "kind", ["batch", "double", "list", "tuple", "normalised", "loader", "plain loader", "dataset", "normalised dicts"]
)
def test_several_images(classifier: FrozenClassifier, images: Tensor, kind: str) -> None:
    """Tensors of the classifier's input size are its inputs as they are; by default the predicted classes."""
    given, normalised = as_given(kind, images)
    predicted = classifier.logits(images).argmax(1)
    found = explain(given, classifier, method="gradcam", normalised=normalised)
    check(found, classifier, images, predicted)
    own = (torch.arange(COUNT) + 1) % 5
    check(explain(given, classifier, own.tolist(), method="gradcam", normalised=normalised), classifier, images, own)
    name = TOY_SPECS["cnn"].class_names[3]
    third = explain(given, classifier, name, method="gradcam", normalised=normalised)
    check(third, classifier, images, torch.full((COUNT,), 3))


@pytest.mark.parametrize("targets", [[4, 0, 1], np.array([4, 0, 1]), torch.tensor([4, 0, 1]), ("4", "0", "dog")])
def test_targets_in_any_sequence(classifier: FrozenClassifier, images: Tensor, targets: Any) -> None:
    found = explain(images[:3], classifier, targets, method="gradcam")
    check(found, classifier, images[:3], torch.tensor([4, 0, 1]))


def test_files_and_pictures_of_different_sizes(classifier: FrozenClassifier, write_image: Any, tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{index}.png", (40 + 10 * index, 50), index) for index in range(3)]
    given = [files[0], str(files[1]), load_image(files[2]), np.asarray(load_image(files[0]))]
    found = explain(given, classifier, method="gradcam")
    for each, one in zip(given, found, strict=True):
        alone = explain(each, classifier, method="gradcam")
        assert isinstance(alone, Explanation)
        assert (one.file, one.image_size, one.crop) == (alone.file, alone.image_size, alone.crop)
        assert one.target == alone.target and one.confidence == pytest.approx(alone.confidence, abs=1e-6)
        np.testing.assert_allclose(one.map, alone.map, atol=1e-5)
    assert [one.file for one in found] == [str(files[0]), str(files[1]), None, None]
    assert [one.image.width for one in found] == [40, 50, 60, 40]


def test_a_plain_network_and_a_batch() -> None:
    torch.manual_seed(0)
    network = ToyCNN()
    images = torch.rand(2, 3, 224, 224)
    found = explain(images, network, method="gradcam")
    check(found, FrozenClassifier.from_module(network), images, found_targets := network_targets(network, images))
    assert found_targets.tolist() == [one.target for one in found]
    assert network.training


def network_targets(network: nn.Module, images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        logits: Tensor = network.eval()((images - mean) / std)
    network.train()
    return logits.argmax(1)


def test_one_image_is_no_list(classifier: FrozenClassifier, images: Tensor) -> None:
    one = explain(images[0], classifier, [2], method="gradcam")
    check([one], classifier, images[:1], torch.tensor([2]))
    assert one.crop == (0, 0, 32, 32) and one.image == array_to_photo(images[0])
    (again,) = explain(images[:1], classifier, 2, method="gradcam")
    np.testing.assert_array_equal(again.map, one.map)


def test_a_tensor_of_another_size_is_resized_and_cropped(classifier: FrozenClassifier) -> None:
    image = torch.rand(3, 50, 60, generator=torch.Generator().manual_seed(0))
    inputs = Crop.of(PIXELS)(array_to_photo(image))[None]
    check([explain(image, classifier, 1, method="gradcam")], classifier, inputs, torch.tensor([1]))
    given = explain((image - MEAN) / STD, classifier, 1, method="gradcam", normalised=True)
    check([given], classifier, inputs, torch.tensor([1]))


class Stream(IterableDataset[Any]):
    def __init__(self, images: Any) -> None:
        self.images = images

    def __iter__(self) -> Any:
        return iter(self.images)


def test_a_stream(classifier: FrozenClassifier, images: Tensor) -> None:
    found = explain(DataLoader(Stream(images), batch_size=4), classifier, [2] * COUNT, method="gradcam")
    check(found, classifier, images, torch.full((COUNT,), 2))


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        (torch.rand(2, 3, 32, 32), [0], "expected one target for each of 2 images, or one for all, got 1"),
        (torch.rand(3, 32, 32), [0, 1], "expected one target for each of 1 images, or one for all, got 2"),
        (DataLoader(torch.rand(9, 3, 32, 32)), [0], "expected one target for each of 8 images"),  # type: ignore[arg-type]
        (DataLoader(torch.rand(2, 3, 32, 32)), [0] * 3, "expected one target for each of 2 images"),  # type: ignore[arg-type]
        (torch.rand(2, 3, 32, 32), ["cow", 1], "unknown class 'cow'"),
        ([], None, "expected at least one image, got an empty list"),
        (DataLoader(Stream([])), None, "expected a DataLoader with images, got an empty one"),
        (torch.rand(0, 3, 32, 32), None, "expected at least one image, got an empty Tensor"),
        (["missing.jpg"], None, "cannot read missing.jpg: No such file"),
        (3, None, r"expected an image \(a file, a PIL image, an array\), a list of images, .*, got int"),
        (Stream([]), None, "a Dataset or a DataLoader, got Stream"),
        (iter([]), None, "a batch .* or a DataLoader, got list_iterator"),
        (torch.randn(2, 3, 32, 32) * 3, None, r"expected an image in \[0, 1\], got values in .*: use normalised=True"),
        (DataLoader([{"photo": 1}]), None, r"expected a DataLoader of batches \(images, labels\), .* got dict"),  # type: ignore[arg-type]
        (torch.rand(2, 4, 32, 32), None, r"expected an image of shape .* with 1 or 3 channels, got \(4, 32, 32\)"),
    ],
)
def test_what_is_refused(classifier: FrozenClassifier, given: Any, target: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(given, classifier, target, method="gradcam")


class TestChannels:
    """Classifiers of tensors with 2, 4 or 10 channels."""

    @staticmethod
    def network(channels: int) -> nn.Module:
        torch.manual_seed(channels)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip

    def classifier(self, channels: int) -> FrozenClassifier:
        pixels = Preprocessing(24, (16, 24), mean=(0.4,) * channels, std=(0.2,) * channels)
        return FrozenClassifier.from_module(self.network(channels), preprocess=pixels)

    @pytest.mark.parametrize("channels", [2, 4, 10])
    @pytest.mark.parametrize("method", [None, "gradcam", "rise", "integrated_gradients"])
    def test_maps_and_confidences(self, channels: int, method: str | None) -> None:
        classifier = self.classifier(channels)
        images = torch.rand(2, channels, 16, 24, generator=torch.Generator().manual_seed(1))
        arguments = {"masks": 20} if method == "rise" else {}
        found = explain(images, classifier, [1, 2], method=method, **arguments)
        maps = min_max(build_explainer(classifier, method or "gradcam", **arguments)(images, [1, 2]))
        with torch.no_grad():
            logits = self.network(channels).eval()((images - 0.4) / 0.2)
        assert [one.confidence for one in found] == pytest.approx(logits.softmax(1)[[0, 1], [1, 2]].tolist(), abs=1e-5)
        for one, map in zip(found, maps, strict=True):
            assert one.note or torch.allclose(torch.from_numpy(one.map), map, atol=1e-4)
            assert one.overlay().size == one.image_size == (24, 16)

    @pytest.mark.parametrize(
        ("count", "channels", "drawn"),
        [
            (10, None, (0, 1, 2)),
            (10, (7, 4, 9), (7, 4, 9)),
            (10, [6], (6, 6, 6)),
            (4, None, (0, 1, 2)),
            (2, None, (0, 0, 0)),
            (2, (1,), (1, 1, 1)),
        ],
    )
    def test_the_channels_that_are_drawn(self, count: int, channels: Any, drawn: tuple[int, ...]) -> None:
        levels = torch.arange(count) / 51
        image = levels.view(-1, 1, 1).expand(count, 16, 24)
        explanation = explain(image, self.classifier(count), method="centre", channels=channels)
        expected = tuple(5 * index for index in drawn)
        assert explanation.image.getpixel((5, 5)) == expected

    def test_an_array_is_explained_as_well(self) -> None:
        image = np.random.default_rng(0).random((10, 16, 24))
        found = explain(image, self.classifier(10), 1, method="gradcam")
        tensor = explain(torch.from_numpy(image), self.classifier(10), 1, method="gradcam")
        np.testing.assert_array_equal(found.map, tensor.map)

    @pytest.mark.parametrize(
        ("given", "channels", "message"),
        [
            (torch.rand(10, 20, 24), None, r"shape \(10, 16, 24\) in \[0, 1\], .* got torch.float32 \(10, 20, 24\)"),
            (torch.rand(3, 16, 24), None, r"shape \(10, 16, 24\) in \[0, 1\], .* got torch.float32 \(3, 16, 24\)"),
            (torch.ones(10, 16, 24).byte(), None, r"expected a float tensor .* got torch.uint8 \(10, 16, 24\)"),
            (
                torch.full((10, 16, 24), 2.0),
                None,
                r"expected an image in \[0, 1\], got values in \[2, 2\]: use",
            ),
            (Image.new("RGB", (24, 16)), None, "expected a float tensor .* got an image of 3 channels"),
            (torch.rand(10, 16, 24), (1, 2), r"expected one or three channels to draw in 0\.\.9, got \[1, 2\]"),
            (torch.rand(10, 16, 24), (10,), r"expected one or three channels to draw in 0\.\.9, got \[10\]"),
        ],
    )
    def test_what_is_refused(self, given: Any, channels: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            explain(given, self.classifier(10), method="gradcam", channels=channels)

    def test_mean_and_std_of_another_length_are_refused_with_how(self) -> None:
        message = r"to have 10 channels, but got 3 channels instead; check the input size, mean and std \(one value per"
        with pytest.raises(InputError, match=message):
            FrozenClassifier.from_module(self.network(10))
        with pytest.raises(InputError, match="expected mean and std of the same length, one value per channel, got"):
            Preprocessing(24, 24, mean=(0.4,) * 10)
