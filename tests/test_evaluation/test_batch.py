"""One batch as rows: what the classifier says, what an explanation costs, who is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_runs import batch_of, maps_by
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.evaluation.batch import BatchEvaluation
from tame.explainers import build_explainer
from tame.metrics import Deletion, ImputedConfidence, MaskedConfidence, Metric, perturbations_of
from tame.perturbations import PassRows

Make = Callable[..., FrozenClassifier]
FILES = ["a.png", "b.png", "c.png", "d.png"]


def measurement(
    classifier: FrozenClassifier, maps_of: Any = None, metrics: Sequence[Metric] = (), **options: Any
) -> BatchEvaluation:
    perturbations = perturbations_of(metrics or [MaskedConfidence(keeps=(0.5,))])
    return BatchEvaluation(
        maps_of or maps_by(classifier, "centre"), classifier, perturbations, FILES, PassRows(), **options
    )


@pytest.fixture
def seven_classes() -> FrozenClassifier:
    """A classifier of images of one pixel whose logits are the seven channels."""
    head = nn.Linear(7, 7, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(7))
    preprocessing = Preprocessing(1, 1, mean=(0.0,) * 7, std=(1.0,) * 7)
    spec = BackboneSpec("channels", nn.Identity, preprocessing, class_names=tuple("abcdefg"))
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return FrozenClassifier(spec, net, layers=["0"])


def test_top_1_and_top_5_by_hand(seven_classes: FrozenClassifier) -> None:
    scores = torch.tensor([0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4])  # best first: 1 3 5 6 4 2 0
    rows = measurement(seven_classes)(batch_of(scores.expand(4, 7)[..., None, None], [1, 4, 2, -1]))
    assert [(row["correct_top1"], row["correct_top5"]) for row in rows] == [(1, 1), (0, 1), (0, 0), ("", "")]
    assert [row["label"] for row in rows] == [1, 4, 2, ""]
    assert [row["target"] for row in rows] == [1] * 4
    assert [row["p"] for row in rows] == pytest.approx([scores.softmax(0)[1].item()] * 4)
    assert [(row["index"], row["file"], row["counted"]) for row in rows] == [
        (index, file, 1) for index, file in enumerate(FILES)
    ]


@pytest.mark.parametrize(
    ("method", "options", "forward", "backward"),
    [("centre", {}, 0, 0), ("gradcam", {}, 1, 1), ("rise", {"masks": 10}, 10, 0)],
)
def test_passes_of_the_explainer_per_image(
    toy_classifier: Make, toy_images: Tensor, method: str, options: dict[str, int], forward: int, backward: int
) -> None:
    classifier = toy_classifier()
    explainer = build_explainer(classifier, method, **options)
    with torch.inference_mode():
        rows = measurement(classifier, lambda images, targets, _: explainer(images, targets))(batch_of(toy_images))
    assert [(row["explain_forward"], row["explain_backward"]) for row in rows] == [(forward, backward)] * 4


def test_passes_of_a_learned_explainer(toy_classifier: Make, toy_images: Tensor) -> None:
    """Features come from the classifier's traced graph: one forward pass all the same."""
    classifier = toy_classifier()

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        return classifier(images).features[-1].mean(1)

    rows = measurement(classifier, maps_of)(batch_of(toy_images))
    assert {(row["explain_forward"], row["explain_backward"]) for row in rows} == {(1, 0)}


def test_seconds_are_shared_by_the_images(toy_classifier: Make, toy_images: Tensor) -> None:
    rows = measurement(toy_classifier())(batch_of(toy_images))
    for name in ("seconds_explain", "seconds_perturb", "seconds_classify"):
        assert len({row[name] for row in rows}) == 1 and 0 < rows[0][name] < 10


def test_only_correct_images_are_explained(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier()
    labels = classifier.logits(toy_images).argmax(1).tolist()
    labels[1] = (labels[1] + 1) % 5
    labels[3] = -1
    asked: list[int] = []

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        assert targets.tolist() == [labels[index] for index in indices.tolist()]
        return images.mean(1)

    rows = measurement(classifier, maps_of, only="correct")(batch_of(toy_images, labels))
    assert asked == [0, 2]
    assert [row["counted"] for row in rows] == [1, 0, 1, 0]
    assert rows[1]["minmax_50_p"] == rows[3]["explain_forward"] == rows[3]["constant"] == ""
    assert len({tuple(row) for row in rows}) == 1  # the same columns in the same order
    wrong = [(label + 1) % 5 for label in labels]
    assert [row["counted"] for row in measurement(classifier, only="correct")(batch_of(toy_images, wrong))] == [0] * 4


def test_which_inputs_say_whether_the_class_survives(toy_classifier: Make, toy_images: Tensor) -> None:
    metrics = MaskedConfidence(("rank",), (1.0,)), ImputedConfidence((0.5,)), Deletion(1)
    (row, *_) = measurement(toy_classifier(), metrics=metrics)(batch_of(toy_images))
    names = [name for name in row if name.endswith(("_p", "_kept"))]
    inputs = ["rank_100", "morf_50", "lerf_50", "deletion_0", "deletion_1"]
    assert names == [*(f"{name}_p" for name in inputs), "morf_50_kept", "lerf_50_kept"]


def test_half_precision_reaches_the_classifier_and_the_explainer_alone(
    toy_classifier: Make, toy_images: Tensor
) -> None:
    classifier, batch = toy_classifier(), batch_of(toy_images)
    types: list[torch.dtype] = []

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        types.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return images.mean(1)

    full, half = (measurement(classifier, maps_of, precision=name)(batch) for name in ("32", "bf16-mixed"))
    assert types == [torch.float32, torch.bfloat16]
    for before, after in zip(full, half, strict=True):
        assert after["p"] != before["p"] and after["p"] == pytest.approx(before["p"], abs=1e-2)
        assert after["rank_50_p"] == pytest.approx(before["rank_50_p"], abs=1e-2)
