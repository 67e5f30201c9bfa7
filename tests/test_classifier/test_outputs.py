"""Networks that return something else than logits (B, K): the logits are found, named, or refused."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.cost import PassCounter
from tame.classifier.outputs import Part, WithOutput, as_pair, read_logits, resolve_output, with_output
from tame.classifier.probing.proposal import propose_layers
from tame.classifier.split import split_at
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

SPEC = TOY_SPECS["cnn"]
LAYERS = ("stage1", "stage2", "stage3")


@dataclass
class Found:
    """A result object, as some libraries return it."""

    logits: Tensor
    loss: None = None


class Wrapped(ToyCNN):
    """The toy network with wrapped logits, a buffer and a parameter of its own, and another result in training mode."""

    def __init__(self, wrap: Callable[[Tensor], Any], classes: int = 5) -> None:
        super().__init__(classes)
        self.wrap = wrap
        self.scale = nn.Parameter(torch.full((1,), 1.5))
        self.register_buffer("shift", torch.full((1,), 0.25), persistent=False)

    def forward(self, inputs: Tensor) -> Any:
        logits = super().forward(inputs) * self.scale + self.shift
        return ("in training", logits) if self.training else self.wrap(logits)


WRAPS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda logits: {"loss": None, "logits": logits},
    "ordered dict": lambda logits: OrderedDict(logits=logits),
    "dataclass": Found,
    "attribute": lambda logits: SimpleNamespace(hidden=None, logits=logits),
}


def plain_twin(module: Wrapped) -> ToyCNN:
    """Return a copy of the network that returns its logits."""
    twin = copy.deepcopy(module)
    twin.wrap = lambda logits: logits
    return twin


@pytest.fixture
def built() -> Callable[..., Wrapped]:
    def build(wrap: Callable[[Tensor], Any], classes: int = 5) -> Wrapped:
        torch.manual_seed(3)
        return Wrapped(wrap, classes)

    return build


Build = Callable[..., Wrapped]


@pytest.mark.parametrize("kind", WRAPS)
def test_logits_are_found_and_all_else_stays_as_it_is(built: Build, toy_images: Tensor, kind: str) -> None:
    module = built(WRAPS[kind])
    classifier, twin = FrozenClassifier(SPEC, module, LAYERS), FrozenClassifier(SPEC, plain_twin(module), LAYERS)
    assert isinstance(classifier.module, WithOutput) and not isinstance(twin.module, WithOutput)
    assert torch.equal(classifier.logits(toy_images), twin.logits(toy_images))
    for got, want in zip(classifier(toy_images).features, twin(toy_images).features, strict=True):
        assert torch.equal(got, want)
    assert classifier.weights_hash == twin.weights_hash
    assert list(classifier.state_dict()) == list(twin.state_dict())
    assert [name for name, _ in classifier.named_modules()] == [name for name, _ in twin.named_modules()]
    assert classifier.with_layers(["stage2"]).module is classifier.module  # wrapped once


def test_a_tensor_is_taken_as_it_is() -> None:
    module = ToyCNN().eval()
    assert with_output(SPEC, module) is module


def test_logits_in_a_tuple_need_their_index(built: Build, toy_images: Tensor) -> None:
    module = built(lambda logits: (logits, logits[:, :3]))
    message = r"expected a tensor of logits from Wrapped, got a tuple of (2, 5), (2, 3); say where .* with output: .* "
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        FrozenClassifier(SPEC, module, LAYERS)
    classifier = FrozenClassifier(replace(SPEC, output=resolve_output("0")), module, LAYERS)
    torch.testing.assert_close(
        classifier.logits(toy_images), plain_twin(module).eval()(classifier.normalise(toy_images))
    )


def test_a_mapping_without_logits_says_what_it_has(built: Build) -> None:
    module = built(lambda logits: {"scores": logits, "loss": None})
    with pytest.raises(InputError, match="expected a tensor of logits from Wrapped, got a dict of scores, loss; say"):
        FrozenClassifier(SPEC, module, LAYERS)
    FrozenClassifier(replace(SPEC, output=resolve_output("scores")), module, LAYERS)
    with pytest.raises(InputError, match="expected a network output with the part 'score', got a dict of scores, loss"):
        FrozenClassifier(replace(SPEC, output=resolve_output("score")), module, LAYERS)


def test_other_classes_by_a_part_of_another_name(built: Build, toy_images: Tensor) -> None:
    module = built(lambda logits: Found(logits, logits.flip(1)))  # type: ignore[arg-type] # two heads
    classifier = FrozenClassifier(replace(SPEC, output=Part("loss")), module, LAYERS)
    first = FrozenClassifier(SPEC, module, LAYERS)
    assert torch.equal(classifier.logits(toy_images), first.logits(toy_images).flip(1))


def test_a_function_of_the_users_own(
    built: Build, toy_images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_outputs.py").write_text("def last(output):\n    return output['heads'][-1]\n\nnothing = 3\n")
    monkeypatch.chdir(tmp_path)
    module = built(lambda logits: {"heads": [logits[:, :2], logits]})
    spec = replace(SPEC, output=resolve_output("my_outputs:last"))
    torch.testing.assert_close(
        FrozenClassifier(spec, module, LAYERS).logits(toy_images),
        FrozenClassifier(SPEC, plain_twin(module), LAYERS).logits(toy_images),
    )
    with pytest.raises(InputError, match="my_outputs:first"):
        resolve_output("my_outputs:first")
    with pytest.raises(
        InputError, match="expected package.module:function as the output function, got 'my_outputs:nothing', a int"
    ):
        resolve_output("my_outputs:nothing")


@pytest.mark.parametrize("column", [True, False])
def test_one_logit_becomes_two_classes(built: Build, toy_images: Tensor, column: bool) -> None:
    module = built((lambda logits: logits) if column else (lambda logits: logits.squeeze(1)), classes=1)
    spec = replace(SPEC, class_names=("healthy", "ill"))
    classifier = FrozenClassifier(spec, module, LAYERS)
    logit = module(classifier.normalise(toy_images)).reshape(-1)
    logits = classifier.logits(toy_images)
    assert logits.shape == (4, 2)
    torch.testing.assert_close(logits.softmax(1)[:, 1], logit.sigmoid())
    torch.testing.assert_close(logits.softmax(1)[:, 0], 1 - logit.sigmoid())
    assert classifier.logits(toy_images[:1]).shape == (1, 2)
    torch.testing.assert_close(classifier(toy_images).logits, logits)


def test_both_classes_of_one_logit_have_gradients() -> None:
    logit = torch.tensor([0.7], requires_grad=True)
    for row in torch.eye(2):
        (gradient,) = torch.autograd.grad(as_pair(logit)[0] @ row, logit)
        assert gradient.abs().item() == 0.5


def test_one_logit_of_one_class_becomes_a_column(built: Build, toy_images: Tensor) -> None:
    module = built(lambda logits: {"logits": logits.squeeze(1)}, classes=1)
    classifier = FrozenClassifier(replace(SPEC, class_names=("ill",), score="sigmoid"), module, LAYERS)
    assert classifier.logits(toy_images).shape == (4, 1)


@pytest.mark.parametrize(
    ("wrap", "changes", "message"),
    [
        (
            lambda logits: logits[:, :4],
            {},
            "expected logits of shape (B, 5) from toy_cnn, got (2, 4) for 2 images: check",
        ),
        (lambda logits: logits[:, :1], {}, "expected logits of shape (B, 5) from toy_cnn, got (2, 1) for 2 images"),
        (lambda logits: logits[0], {}, "expected logits of shape (B, 5) from toy_cnn, got (5,) for 2 images"),
        (lambda logits: logits[..., None], {}, "expected logits of shape (B, 5) from toy_cnn, got (2, 5, 1) for 2"),
        (lambda logits: logits[:, :1], {"class_names": ("a", "b"), "score": "sigmoid"}, "shape (B, 2) from toy_cnn"),
        (
            lambda logits: logits.argmax(1),
            {},
            "expected logits, a tensor of floats, as the output of Wrapped, got a tensor",
        ),
        (lambda logits: logits, {"output": lambda value: value.tolist()}, "tensor of floats, as the output of Wrapped"),
        (lambda logits: logits, {"output": Part(9)}, "expected a network output with the part 9, got a Tensor"),
    ],
)
def test_other_results_are_refused(
    built: Build, wrap: Callable[[Tensor], Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FrozenClassifier(replace(SPEC, **changes), built(wrap), LAYERS)


DENSE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "map": (lambda logits: logits[..., None, None].expand(-1, -1, 8, 8), "segments images ((2, 5, 8, 8) for 2 images)"),
    "torchvision's segmentation": (
        lambda logits: OrderedDict(out=logits[..., None, None].expand(-1, -1, 8, 8)),
        "segments images ((2, 5, 8, 8) for 2 images)",
    ),
    "Hugging Face's segmentation": (
        lambda logits: SimpleNamespace(logits=logits[..., None, None].expand(-1, -1, 8, 8)),
        "segments images ((2, 5, 8, 8) for 2 images)",
    ),
    "torchvision's detection": (
        lambda logits: [{"boxes": torch.zeros(0, 4), "scores": row} for row in logits],
        "detects objects (a list of dict, dict, with boxes)",
    ),
    "Hugging Face's detection": (
        lambda logits: SimpleNamespace(logits=logits[:, None], pred_boxes=torch.zeros(2, 1, 4)),
        "detects objects (a SimpleNamespace with logits, pred_boxes, with pred_boxes)",
    ),
}


@pytest.mark.parametrize("kind", DENSE)
def test_segmentation_and_detection_are_no_classification(built: Build, kind: str) -> None:
    wrap, task = DENSE[kind]
    with pytest.raises(InputError, match=f"^{re.escape(f'Wrapped is no classifier: it {task}; wrap it as one with')}"):
        FrozenClassifier.from_module(built(wrap), LAYERS, SPEC.preprocessing)


def test_a_segmentation_network_is_explained_by_its_mean_logit(built: Build, toy_images: Tensor) -> None:
    module = built(lambda logits: {"out": logits[..., None, None] * torch.ones(8, 8)})
    classifier = FrozenClassifier.from_module(
        module, LAYERS, SPEC.preprocessing, output=lambda value: value["out"].mean((2, 3))
    )
    torch.testing.assert_close(
        classifier.logits(toy_images), plain_twin(module).eval()(classifier.normalise(toy_images))
    )


@pytest.mark.parametrize("broken", [True, False])
def test_a_network_that_gives_nan_is_refused_with_the_cause(built: Build, broken: bool) -> None:
    module = built(lambda logits: logits if broken else logits / 0 * 0)
    if broken:
        nn.init.constant_(module.head.weight, torch.nan)
    cause = "its weight head.weight is not finite" if broken else "its weights are finite, its operations are not"
    with pytest.raises(InputError, match=f"expected finite logits from Wrapped, got NaN for random images: {cause}"):
        FrozenClassifier.from_module(module, LAYERS, SPEC.preprocessing, name="Wrapped")


def test_the_message_says_what_to_check(built: Build) -> None:
    with pytest.raises(InputError, match=r"check the number of classes or class names, and where .* \(output\)$"):
        FrozenClassifier(SPEC, built(lambda logits: logits, classes=6), LAYERS)


def test_an_input_that_the_module_refuses() -> None:
    spec = replace(SPEC, preprocessing=replace(SPEC.preprocessing, mean=(0.5,), std=(0.2,)))
    message = (
        r"expected a network that takes images of shape \(2, 1, 32, 32\) \(.* of toy_cnn\), got ToyCNN: .*channels"
    )
    with pytest.raises(InputError, match=message):
        FrozenClassifier(spec, ToyCNN(), LAYERS)


def test_counting_classes_needs_no_spec(built: Build) -> None:
    logits, output = read_logits(built(WRAPS["dict"], classes=7).eval(), (3, 32, 32))
    assert logits.shape == (2, 7) and output == Part("logits")
    assert read_logits(ToyCNN().eval(), (3, 32, 32))[1] is None


# --- everything else that is done with a network


@pytest.fixture
def pair(built: Build) -> tuple[FrozenClassifier, FrozenClassifier]:
    """A wrapped classifier and its plain twin."""
    module = built(Found)
    return FrozenClassifier(SPEC, module, LAYERS), FrozenClassifier(SPEC, plain_twin(module), LAYERS)


Pair = tuple[FrozenClassifier, FrozenClassifier]


def test_a_module_given_in_training_mode_stays_frozen(built: Build) -> None:
    module = built(Found).train()
    classifier = FrozenClassifier(SPEC, module, LAYERS)
    assert not module.training and not classifier.module.training
    adapted = with_output(SPEC, module)
    assert adapted.train().training and module.training and module.stage1.training
    assert not adapted.eval().training and not module.training


def test_it_moves_with_its_module(pair: Pair, toy_images: Tensor) -> None:
    wrapped, twin = (classifier.to(torch.float64) for classifier in pair)
    assert wrapped.logits(toy_images.double()).dtype == torch.float64
    assert torch.equal(wrapped.logits(toy_images.double()), twin.logits(toy_images.double()))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])  # noqa: S301
def test_copies_work_and_share_nothing(
    pair: Pair, toy_images: Tensor, clone: Callable[[FrozenClassifier], FrozenClassifier]
) -> None:
    wrapped, twin = pair
    copied = clone(wrapped)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    assert torch.equal(copied.logits(toy_images), twin.logits(toy_images))
    assert torch.equal(copied(toy_images).logits, twin(toy_images).logits)
    assert not wrapped.logits(toy_images).sub(0.25).any()  # the module itself is wrapped: all zero but the shift


def test_weights_can_be_loaded(pair: Pair, toy_images: Tensor) -> None:
    wrapped, _ = pair
    other = ToyCNN().eval()
    missing = wrapped.module.load_state_dict(other.state_dict(), strict=False)
    assert missing.missing_keys == ["scale"] and not missing.unexpected_keys
    expected = other(wrapped.normalise(toy_images)) * 1.5 + 0.25
    torch.testing.assert_close(wrapped.logits(toy_images), expected)


def test_hooks_splits_passes_and_proposals_are_those_of_the_plain_network(pair: Pair, toy_images: Tensor) -> None:
    wrapped, twin = pair
    seen: list[Tensor] = []
    handle = wrapped.module.get_submodule("stage2").register_forward_hook(lambda *each: seen.append(each[2]))
    wrapped.logits(toy_images)
    handle.remove()
    torch.testing.assert_close(seen[0], twin(toy_images).features[1])
    split = split_at(wrapped, "stage2")
    torch.testing.assert_close(split.after(*split.before(toy_images)), twin.logits(toy_images))
    with PassCounter(wrapped).counting() as passes:
        wrapped(toy_images)
        wrapped.masked_logits(toy_images, torch.ones(4, 2, 2))
    assert passes.forward == 8
    plain = replace(SPEC, layers={})
    assert propose_layers(plain, wrapped.module) == propose_layers(plain, twin.module)


class Untraceable(Wrapped):
    """Its control flow depends on its input."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs if inputs.mean() < 1e6 else inputs / 2)


def test_a_network_that_cannot_be_traced_is_wrapped_too(pair: Pair, toy_images: Tensor) -> None:
    module = Untraceable(WRAPS["dict"])
    module.load_state_dict(pair[1].module.state_dict())
    logits, features = FrozenClassifier(SPEC, module, LAYERS)(toy_images)
    expected = pair[1](toy_images)
    torch.testing.assert_close(logits, expected.logits)
    for got, want in zip(features, expected.features, strict=True):
        torch.testing.assert_close(got, want)


def test_proposals_need_no_frozen_classifier(built: Build) -> None:
    spec: BackboneSpec = replace(SPEC, layers={})
    assert propose_layers(spec, built(WRAPS["dict"]).eval()) == LAYERS
