"""Passes are counted with gradients, through traced graphs and from inner layers; hooks are removed afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.classifier.cost import PassCounter, Passes, relative_cost
from tame.classifier.gradients import graph_from
from tame.classifier.split import split_at
from tame.explainers.cams import GradCAM
from tame.explainers.perturbation_cams import AblationCAM
from tame.explainers.rise import RISE
from tame.perturbations import MaskedInputs, PassRows, PassSettings, perturbed_scores

Make = Callable[..., FrozenClassifier]
KINDS = pytest.mark.parametrize("kind", ["cnn", "vit"])


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def hooks(classifier: FrozenClassifier) -> int:
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
        for part in classifier.modules()
    )


@KINDS
def test_a_plain_pass(toy_classifier: Make, kind: str) -> None:
    classifier = toy_classifier(kind)
    with PassCounter(classifier).counting() as passes:
        classifier.logits(images())
        classifier.logits(images(2))
    assert passes == Passes(forward=7, backward=0)


@KINDS
def test_the_traced_graph(toy_classifier: Make, kind: str) -> None:
    """Features and logits come from the extractor, which shares the modules."""
    classifier = toy_classifier(kind)
    other = classifier.with_layers(classifier.layers[:1])
    with PassCounter(classifier).counting() as passes:
        classifier(images())
        other(images(2))
    assert passes == Passes(forward=5 + 2, backward=0)


@KINDS
@pytest.mark.parametrize("outer", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_cam_is_one_pass_each_way(toy_classifier: Make, kind: str, outer: Callable[[], torch.no_grad]) -> None:
    classifier = toy_classifier(kind)
    explainer = GradCAM(classifier, "stage3" if kind == "cnn" else "encoder.layers.encoder_layer_1.ln_1")
    with PassCounter(classifier).counting() as passes, outer():
        explainer(images(), torch.arange(5))
    assert passes == Passes(forward=5, backward=5)


@KINDS
def test_gradients_of_every_pass_are_counted(toy_classifier: Make, kind: str) -> None:
    classifier = toy_classifier(kind)
    given = images(3).requires_grad_()
    with PassCounter(classifier).counting() as passes:
        logits = classifier.logits(given)
        torch.autograd.grad(logits[:, 0].sum(), given, retain_graph=True)
        torch.autograd.grad(logits[:, 1].sum(), given)
    assert passes == Passes(forward=3, backward=6)


@KINDS
def test_a_graph_that_is_not_walked_back_costs_nothing(toy_classifier: Make, kind: str) -> None:
    classifier = toy_classifier(kind)
    with PassCounter(classifier).counting() as passes:
        graph_from(classifier, classifier.layers[0], images())
    assert passes == Passes(forward=5, backward=0)


@KINDS
def test_a_pass_from_an_inner_layer_counts_its_rows(toy_classifier: Make, kind: str) -> None:
    classifier = toy_classifier(kind)
    split = split_at(classifier, classifier.layers[1])
    counter = PassCounter(classifier)
    with counter.counting() as passes:
        values = split.before(images(1))
    assert passes == Passes(forward=0, backward=0)  # it does not reach the logits
    with counter.counting() as passes:
        split.after(*(value.expand(4, *value.shape[1:]) for value in values))
    assert passes == Passes(forward=4, backward=0)


def test_perturbed_scores(toy_classifier: Make) -> None:
    """The count does not depend on the number of rows per pass."""
    classifier = toy_classifier()
    targets, inputs = torch.zeros(5, dtype=torch.int64), MaskedInputs(["minmax", "rank"], [1.0, 0.5, 0.15])
    with PassCounter(classifier).counting() as passes:
        perturbed_scores(
            classifier,
            images(),
            torch.rand(5, 4, 4),
            targets,
            torch.arange(5),
            [inputs],
            PassSettings(rows=PassRows(7)),
        )
    assert passes == Passes(forward=30, backward=0)


def test_blocks_count_on_their_own(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    counter = PassCounter(classifier)
    with counter.counting() as outer:
        classifier.logits(images(1))
        with counter.counting() as inner:
            classifier.logits(images(2))
    classifier.logits(images(4))
    assert outer == Passes(forward=3) and inner == Passes(forward=2)


def test_no_hook_is_left(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    assert hooks(classifier) == 0
    counter = PassCounter(classifier)
    assert hooks(classifier) == 0
    with counter.counting():
        assert hooks(classifier) == 1
    assert hooks(classifier) == 0


def test_no_hook_is_left_by_an_error(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    with pytest.raises(RuntimeError, match="channels"), PassCounter(classifier).counting() as passes:
        classifier.logits(images())
        classifier.module(torch.rand(1, 2, 32, 32))
    assert hooks(classifier) == 0 and passes == Passes(forward=5)


def test_no_hook_is_left_by_a_classifier_that_fails(toy_classifier: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = toy_classifier()

    def fail(_inputs: Tensor) -> Tensor:
        raise RuntimeError("broken")

    monkeypatch.setattr(classifier.module.head, "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        PassCounter(classifier)
    assert hooks(classifier) == 0


class Last(nn.Module):
    """Ends in an operation that is not a module with parameters."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end
        self.stem = nn.Conv2d(1, 4, 3)
        self.out = nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.ones(2))
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.out(self.stem(inputs).relu())
        if self.end == "scaled":
            return maps.mean((2, 3)) * self.scale
        return maps.mul_(2).mean((2, 3)) if self.end == "in place" else maps.flatten(2).mean(2)


@pytest.mark.parametrize("end", ["pooled", "scaled", "in place"])
def test_operations_after_the_last_layer_do_not_matter(end: str) -> None:
    spec = BackboneSpec("odd", nn.Identity, Preprocessing(8, 8, "bilinear", (0.0,), (1.0,)), class_names=("a", "b"))
    classifier = FrozenClassifier(spec, Last(end), layers=["stem"])
    with PassCounter(classifier).counting() as passes:
        classifier(torch.rand(3, 1, 8, 8))
        leaf, logits = graph_from(classifier, "stem", torch.rand(2, 1, 8, 8))
        torch.autograd.grad(logits[:, 0].sum(), leaf)
    assert passes == Passes(forward=5, backward=2)


def test_a_network_without_layers_counts_as_a_whole() -> None:
    class Brightness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.pool(inputs).flatten(1)

    spec = BackboneSpec("flat", nn.Identity, Preprocessing(4, 4), class_names=("r", "g", "b"))
    classifier = FrozenClassifier(spec, Brightness(), layers=["pool"])
    with PassCounter(classifier).counting() as passes:
        classifier.logits(torch.rand(6, 3, 4, 4))
    assert passes.forward == 6


STAGES = {  # multiplications of the toy CNN per image: positions, outputs, kernel, inputs
    "stage1": 16 * 16 * 8 * 9 * 3,
    "stage2": 8 * 8 * 12 * 9 * 8,
    "stage3": 4 * 4 * 16 * 9 * 12,
    "head": 16 * 5,
}
PLAIN = sum(STAGES.values())
TARGETS = torch.tensor([0, 1, 2, 3, 4])


class TestCost:
    @KINDS
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    @pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
    def test_plain_passes(
        self, toy_classifier: Make, kind: str, mode: Callable[[], torch.no_grad], precision: torch.dtype
    ) -> None:
        """Attention is counted in every mode; its fast path is enabled again afterwards."""
        classifier = toy_classifier(kind)

        def explain() -> None:
            for _ in range(2):
                classifier.logits(images())
            classifier(images())

        with mode(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            assert relative_cost(classifier, images(), explain) == 3.0
        assert torch.backends.mha.get_fastpath_enabled()

    def test_attention_is_counted(self, toy_classifier: Make) -> None:
        classifier, tokens, wide = toy_classifier("vit"), 17, 16
        block = tokens * wide * (4 * wide + 2 * 32) + 2 * tokens**2 * wide  # projections, mlp, attention
        plain = 16 * wide * 3 * 8 * 8 + 3 * block + wide * 5
        weight = torch.rand(plain, 1)
        assert relative_cost(classifier, images(1), lambda: torch.ones(1, plain) @ weight) == 1.0

    def test_rise(self, toy_classifier: Make) -> None:
        """As many passes as masks, and the operations that make the masks: s = 7, and 32 x 32 pixels."""
        classifier = toy_classifier()
        explainer = RISE(classifier, masks=10)
        masks = 32 * 7 * 7 + 32 * 7 * 32  # from the grid to all pixels
        expected = 10 * (1 + (masks + 5 * 32 * 32) / (5 * PLAIN))  # all images see the same
        assert relative_cost(classifier, images(), lambda: explainer(images(), TARGETS)) == pytest.approx(expected)

    @pytest.mark.parametrize(("layer", "after"), [("stage3", ["head"]), ("stage2", ["head", "stage3"])])
    def test_gradcam_goes_back_to_the_layer_only(self, toy_classifier: Make, layer: str, after: list[str]) -> None:
        classifier = toy_classifier()
        explainer = GradCAM(classifier, layer)
        expected = 1 + sum(STAGES[part] for part in after) / PLAIN  # gradients of values, none of weights
        with torch.inference_mode():
            assert relative_cost(classifier, images(), lambda: explainer(images(), TARGETS)) == pytest.approx(expected)

    def test_ablationcam_after_the_last_layer(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        explainer = AblationCAM(classifier, "stage3")
        expected = 1 + 16 * STAGES["head"] / PLAIN  # once more for each channel
        assert expected < 1.01
        assert relative_cost(classifier, images(), lambda: explainer(images(), TARGETS)) == pytest.approx(expected)

    def test_passes_are_counted_as_before(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        explainer = GradCAM(classifier, "stage2")
        with PassCounter(classifier).counting() as passes:
            assert relative_cost(classifier, images(), lambda: explainer(images(), TARGETS)) is not None
        assert passes == Passes(forward=10, backward=5)  # with the forward pass that is the unit

    def test_a_classifier_that_multiplies_nothing_has_no_unit(self) -> None:
        spec = BackboneSpec("flat", nn.Identity, Preprocessing(4, 4), class_names=("r", "g", "b"))
        net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        classifier = FrozenClassifier(spec, net, layers=["0"])
        assert relative_cost(classifier, torch.rand(1, 3, 4, 4), lambda: torch.rand(3, 3) @ torch.rand(3, 3)) is None

    def test_after_an_error_all_is_as_before(self, toy_classifier: Make) -> None:
        def fail() -> None:
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            relative_cost(toy_classifier(), images(), fail)
        assert torch.backends.mha.get_fastpath_enabled()
