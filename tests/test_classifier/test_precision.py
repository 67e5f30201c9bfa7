"""Networks in half and double precision: they take the same images, and maps and scores come out in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.split import split_at
from tame.explainers import EXPLAINERS, build_explainer
from tame.perturbations.scoring import plain_scores
from toys import TOY_SPECS, seeded

DTYPES = (torch.float16, torch.bfloat16, torch.float64)
METHODS = [name for name in EXPLAINERS if not EXPLAINERS.get(name).learned]


def pair(kind: str, dtype: torch.dtype) -> tuple[FrozenClassifier, FrozenClassifier]:
    """Return a toy classifier in another precision, and in float32."""
    spec = seeded(TOY_SPECS[kind])
    layers = spec.layers["proposed"]
    return FrozenClassifier(spec, spec.build().to(dtype), layers), FrozenClassifier(spec, spec.build(), layers)


@pytest.mark.parametrize("kind", TOY_SPECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_and_features_are_those_of_float32(kind: str, dtype: torch.dtype, toy_images: Tensor) -> None:
    classifier, plain = pair(kind, dtype)
    close: dict[str, Any] = {"rtol": 0.05, "atol": 0.1}
    got, want = classifier(toy_images), plain(toy_images)
    torch.testing.assert_close(got.logits, want.logits, **close)
    for feature, expected in zip(got.features, want.features, strict=True):
        torch.testing.assert_close(feature, expected, **close)  # of the same type
    torch.testing.assert_close(
        plain_scores(classifier, toy_images.to(torch.float32)).confidence,
        plain_scores(plain, toy_images).confidence,
        **close,
    )
    split = split_at(classifier, classifier.layers[0])
    torch.testing.assert_close(split.after(*split.before(toy_images)), got.logits, **close)
    assert classifier.with_layers(classifier.layers[:1]).module is classifier.module


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_method_returns_float32(method: str, dtype: torch.dtype, toy_images: Tensor) -> None:
    classifier, plain = pair("vit" if EXPLAINERS.get(method).transformers_only else "cnn", dtype)
    arguments: dict[str, Any] = {"masks": 8} if method == "rise" else {}
    targets = torch.tensor([0, 1, 2, 3])
    maps = build_explainer(classifier, method, **arguments)(toy_images, targets)
    expected = build_explainer(plain, method, **arguments)(toy_images, targets)
    assert maps.dtype == torch.float32 and maps.shape == expected.shape and maps.isfinite().all()
    if dtype == torch.float64:
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_network_of_ones_own(dtype: torch.dtype, toy_images: Tensor) -> None:
    spec = seeded(TOY_SPECS["cnn"])
    found = FrozenClassifier.from_module(spec.build().to(dtype), preprocess=spec.preprocessing)
    usual = FrozenClassifier.from_module(spec.build(), preprocess=spec.preprocessing)
    assert (found.layers, found.spec.score) == (usual.layers, usual.spec.score)
    torch.testing.assert_close(found.logits(toy_images), usual.logits(toy_images), rtol=0.05, atol=0.05)
