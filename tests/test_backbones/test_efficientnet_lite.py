from __future__ import annotations

from importlib.resources import files

import pytest
import torch
import torchvision.transforms.functional as T
from PIL import Image
from torch import Tensor

from tame.backbones import load_backbone
from tame.classifier import FrozenClassifier


@pytest.fixture(scope="module")
def classifier() -> FrozenClassifier:
    return load_backbone("efficientnet_lite0")


@pytest.fixture
def images() -> Tensor:
    """The bundled images, prepared by hand: resize 256 bicubic, crop 224, [0, 1]."""
    images = []
    for name in ("chelsea.jpg", "coffee.jpg"):
        with (files("tame") / "assets" / "photographs" / name).open("rb") as file:
            image = Image.open(file).convert("RGB")
        resized = T.resize(image, [256], T.InterpolationMode.BICUBIC)
        images.append(T.to_tensor(T.center_crop(resized, [224, 224])))
    return torch.stack(images)


def test_the_published_weights_are_the_default(classifier: FrozenClassifier) -> None:
    assert classifier.weights == "imagenet"


def test_the_three_stages_are_the_feature_layers(classifier: FrozenClassifier, images: Tensor) -> None:
    features = classifier(images).features
    assert classifier.channels == (40, 112, 320)
    assert [tuple(feature.shape[1:]) for feature in features] == [(40, 28, 28), (112, 14, 14), (320, 7, 7)]


def test_the_bundled_images_are_recognised(classifier: FrozenClassifier, images: Tensor) -> None:
    cat, coffee = classifier(images).logits.argmax(1).tolist()
    assert cat in range(281, 288)
    assert classifier.spec.class_names[coffee] in ("espresso", "coffee mug")


def test_normalising_as_torchvision_does_would_change_the_answer(classifier: FrozenClassifier, images: Tensor) -> None:
    # mean 127 and std 128 of 255: an image of these values normalises to 0, one std above to 1
    assert torch.allclose(classifier.normalise(torch.full((1, 3, 1, 1), 127 / 255)), torch.zeros(1), atol=1e-6)
    assert torch.allclose(classifier.normalise(torch.ones(1, 3, 1, 1)), torch.ones(1), atol=1e-6)
    assert not torch.allclose(classifier.module(images), classifier.logits(images), atol=0.1)


def test_the_cam_layer_is_the_last_activated_convolution(classifier: FrozenClassifier, images: Tensor) -> None:
    (feature,) = classifier.with_layers([classifier.spec.cam_layer])(images).features
    assert feature.shape[1:] == (1280, 7, 7)
