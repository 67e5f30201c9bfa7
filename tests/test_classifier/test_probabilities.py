"""Classifiers that return probabilities: recognised, explained and measured with their own confidences."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tame.checkpoints.native import describe
from tame.classifier import FrozenClassifier
from tame.classifier.probing.overrides import SpecOverrides
from tame.data import Crop, load_image
from tame.evaluation.evaluate import evaluate
from tame.evaluation.records import open_run
from tame.explainers import build_explainer
from tame.functional.losses import cross_entropy
from tame.functional.scores import scores
from tame.inference import explain
from tame.perturbations.scoring import plain_scores
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN, toy_vit

PIXELS = TOY_SPECS["cnn"].preprocessing


class Ends(ToyCNN):
    """The toy network with an end of its own."""

    def __init__(self, end: Callable[[Tensor], Any], classes: int) -> None:
        torch.manual_seed(3)
        super().__init__(classes)
        self.end = end

    def forward(self, inputs: Tensor) -> Any:
        return self.end(super().forward(inputs))


def freeze(end: Callable[[Tensor], Any], count: int = 5, **choices: Any) -> FrozenClassifier:
    return FrozenClassifier.from_module(Ends(end, count), ["stage2", "stage3"], PIXELS, **choices)


ENDS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "softmax": (lambda logits: logits.softmax(1), 5),
    "two rows of softmax": (lambda logits: logits.softmax(1), 2),
    "independent": (lambda logits: logits.sigmoid(), 5),
    "ensemble": (lambda logits: (logits.softmax(1) + logits.flip(1).softmax(1)) / 2, 5),
    "clamped": (lambda logits: (logits / 6 + 0.5).clamp(0, 1), 5),
    "named": (lambda logits: {"logits": logits.softmax(1)}, 5),
    "detached": (lambda logits: logits.softmax(1).detach(), 5),
}


@pytest.mark.parametrize("kind", ENDS)
def test_the_confidences_are_the_classifiers_own(
    kind: str, toy_images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tame"):
        classifier = freeze(*ENDS[kind])
        classifier.with_layers(["stage2"])
    assert classifier.spec.score == "probability"
    (message,) = (record.getMessage() for record in caplog.records if "probabilities" in record.getMessage())
    assert message.startswith("Ends returns probabilities (") and "score softmax or sigmoid" in message
    module = Ends(*ENDS[kind]).eval()
    with torch.no_grad():
        own = module(classifier.normalise(toy_images))
        own = own["logits"] if isinstance(own, dict) else own
        torch.testing.assert_close(scores(classifier.logits(toy_images), classifier.spec.score), own)
        assert torch.equal(plain_scores(classifier, toy_images).targets, own.argmax(1))
        torch.testing.assert_close(plain_scores(classifier, toy_images).confidence, own.amax(1))
    assert describe(classifier)["score"] == "probability"


@pytest.mark.parametrize("column", [True, False])
def test_one_probability_becomes_two_classes(column: bool, toy_images: Tensor) -> None:
    def end(logits: Tensor) -> Tensor:
        return (logits if column else logits[:, 0]).sub(4).sigmoid()

    classifier = freeze(end, 1, classes=["negative", "positive"])
    own = Ends(end, 1).eval()(classifier.normalise(toy_images)).reshape(-1)
    assert (own < 0.1).all()
    expected = torch.stack((1 - own, own), 1)
    torch.testing.assert_close(scores(classifier.logits(toy_images), classifier.spec.score), expected)
    alone = freeze(end, 1, classes=["positive"])
    torch.testing.assert_close(scores(alone.logits(toy_images), alone.spec.score), own[:, None])


NO_ENDS: dict[str, Callable[[], nn.Module]] = {
    "logits": lambda: Ends(lambda logits: logits, 5),
    "one logit within 0 and 1": lambda: Ends(lambda logits: logits * 1e-3 + 0.5, 1),
    "independent logits within 0 and 1": lambda: Ends(lambda logits: logits * 1e-3 + 0.5, 5),
    "gated inside": lambda: Ends(lambda logits: logits.sigmoid() @ torch.full((5, 5), 1e-2), 5),
    "zero head": lambda: _zero_head(),
    "log softmax": lambda: Ends(lambda logits: logits.log_softmax(1), 5),
}


def _zero_head() -> nn.Module:
    module = toy_vit()
    nn.init.zeros_(module.heads.head.weight)
    nn.init.zeros_(module.heads.head.bias)
    return module


@pytest.mark.parametrize("kind", NO_ENDS)
def test_logits_are_no_probabilities(kind: str) -> None:
    build = NO_ENDS[kind]
    layers = ["encoder.layers.encoder_layer_1.ln_1"] if kind == "zero head" else ["stage2"]
    assert FrozenClassifier.from_module(build(), layers, PIXELS).spec.score == "softmax"


def test_a_score_that_is_named_stays(toy_images: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    classifier = freeze(lambda logits: logits.softmax(1), score="softmax")
    assert classifier.spec.score == "softmax"
    assert caplog.messages == [
        "Ends returns values in [0, 1] that sum to 1 where its spec says logits (score softmax): if they are "
        "probabilities, its score is probability"
    ]
    own = Ends(lambda logits: logits.softmax(1), 5).eval()(classifier.normalise(toy_images))
    torch.testing.assert_close(scores(classifier.logits(toy_images), "softmax"), own.softmax(1))
    with pytest.raises(InputError, match=r"expected probabilities in \[0, 1\] from Ends \(score probability\), got -"):
        freeze(lambda logits: logits, score="probability")
    assert SpecOverrides(score="probability").known() == {"score": "probability"}


def test_the_loss_is_minus_log_p() -> None:
    logits, targets = torch.tensor([[0.5, 0.25], [0.1, 0.8]]).log(), torch.tensor([0, 1])
    expected = -(torch.tensor(0.5).log() + torch.tensor(0.8).log()) / 2
    torch.testing.assert_close(cross_entropy(logits, targets, "probability"), expected)


def test_rise_weighs_masks_by_the_probability(toy_images: Tensor) -> None:
    classifier = freeze(lambda logits: logits.sigmoid())
    rise, targets = build_explainer(classifier, "rise", masks=6), torch.tensor([1, 4, 0, 2])
    masks: Tensor = rise.draw((32, 32)).render(0, 6)  # type: ignore[attr-defined] # RISE has them
    module, expected = Ends(lambda logits: logits.sigmoid(), 5).eval(), torch.zeros(4, 32, 32)
    for mask in masks:
        own = module(classifier.normalise(toy_images) * mask)[range(4), targets]
        expected += own.detach().view(-1, 1, 1) * mask / (6 * 0.5)
    torch.testing.assert_close(rise(toy_images, targets), expected, atol=1e-5, rtol=1e-5)


def test_a_small_p_is_explained_and_evaluated_as_it_is(photographs: Path, tmp_path: Path) -> None:
    def end(logits: Tensor) -> Tensor:
        return logits.sub(4).sigmoid()

    classifier = freeze(end, 1, classes=["negative", "positive"])
    photo = photographs / "00.png"
    image = Crop.of(PIXELS)(load_image(photo))[None]
    own = Ends(end, 1).eval()(classifier.normalise(image)).item()
    assert own < 0.1
    for name, confidence in {"positive": own, "negative": 1 - own}.items():
        explanation = explain(photo, classifier, name, method="gradcam")
        assert explanation.confidence == pytest.approx(confidence, abs=1e-6)
    evaluate(
        build_explainer(classifier, "gradcam"),
        data=photographs,
        out=tmp_path / "run",
        metrics=["ad-ic", "road"],
        limit_images=4,
    )
    run = open_run(next(path.parent for path in (tmp_path / "run").rglob("summary.json")))
    assert run.summary.settings["score"] == "probability"
    first = Crop.of(PIXELS)(load_image(photographs / run.rows.files[0]))[None]
    own = Ends(end, 1).eval()(classifier.normalise(first)).item()
    assert run.rows.columns["p"][0] == pytest.approx(1 - own, abs=1e-6)
