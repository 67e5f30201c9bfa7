"""A network of the user's own is left as it is by everything that takes one."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from lightning import LightningModule
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

import tame
from tame.classifier import FrozenClassifier, Preprocessing
from tame.classifier.shared import shares_tensors, sharing_copy
from tame.utils.checks import InputError
from toys import ToyCNN, toy_vit

SMALL = Preprocessing(32, 32)


def network() -> nn.Module:
    torch.manual_seed(0)
    module = ToyCNN()
    module.head.bias.requires_grad_(False)
    module.stage1.eval()
    return module


def state(module: nn.Module) -> dict[str, object]:
    """All that explaining may not change; values as bytes, since equality is meant bit for bit."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {
        "values": {name: value.detach().numpy().tobytes() for name, value in named},
        "gradients": {name: None if value.grad is None else value.grad.numpy().tobytes() for name, value in named},
        "memory": {name: (id(value), value.data_ptr(), value.stride(), value._version) for name, value in named},
        "needs gradient": {name: value.requires_grad for name, value in named},
        "modes": {name: part.training for name, part in module.named_modules()},
        "hooks": {name: (*part._forward_hooks, *part._backward_hooks) for name, part in module.named_modules()},
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
    }


USES = {
    "from_module": lambda module, image: FrozenClassifier.from_module(module, preprocess=SMALL),
    "explain": lambda module, image: tame.explain(image, module, method="gradcam"),
    "layers": lambda module, image: tame.explain(image, module, 3, method="layercam", layers="stage2"),
    "rise": lambda module, image: tame.explain(image, module, 1, method="rise", masks=20),
    "integrated": lambda module, image: tame.explain(image, module, 1, method="integrated_gradients", steps=2),
    "function": lambda module, image: tame.explain(image, module, 1, method=lambda images, targets: images[:, 0]),
    "inspect": lambda module, image: tame.inspect_classifier(module, input_size=32),
}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((224, 224, 3))


@pytest.mark.parametrize("use", USES)
def test_a_network_is_untouched(use, image):
    module = network()
    module(torch.rand(4, 3, 32, 32)).sum().backward()
    before = state(module)
    USES[use](module, image)
    assert state(module) == before


@pytest.mark.parametrize("use", USES)
def test_a_failure_leaves_the_network_untouched(use, image):
    module = network()
    module.head = nn.Linear(15, 5)
    before = state(module)
    with pytest.raises(InputError):
        USES[use](module, image)
    assert state(module) == before


def trained(between) -> dict[str, object]:
    """Train with momentum, batch norm and dropout, with something between the steps, also within one."""
    module = network()
    torch.manual_seed(1)
    optimiser = torch.optim.SGD((each for each in module.parameters() if each.requires_grad), 0.1, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(torch.rand(8, 3, 32, 32)), torch.arange(8) % 5)
        between(module)
        loss.backward()
        between(module)
        optimiser.step()
        between(module)
    return {name: part for name, part in state(module).items() if name != "memory"} | {"random": torch.rand(3).tolist()}


def test_training_with_explanations_in_between_is_the_same_bit_for_bit(image):
    def explain(module: nn.Module) -> None:
        for use in ("explain", "rise", "integrated", "inspect"):
            USES[use](module, image)

    assert trained(explain) == trained(lambda module: None)


def test_one_classifier_follows_the_training():
    module = network()
    classifier = FrozenClassifier.from_module(module, ["stage1", "stage3"], SMALL)
    images = torch.rand(2, 3, 32, 32)
    hashes = {classifier.weights_hash}
    optimiser = torch.optim.SGD((each for each in module.parameters() if each.requires_grad), 0.5)
    for made in (classifier, classifier.with_layers(["stage2"])):
        module.train()(torch.randn(8, 3, 32, 32)).square().sum().backward()
        optimiser.step()
        expected = module.eval()(made.normalise(images))
        torch.testing.assert_close(made(images).logits, expected)
        torch.testing.assert_close(made.logits(images), expected)
        hashes.add(made.weights_hash)
    assert len(hashes) == 3
    assert not any(each.requires_grad for each in classifier.parameters())
    assert not any(part.training for part in classifier.modules())


def test_changes_are_counted_together():
    """Caches and kept explainers look at the version of a tensor."""
    module = network()
    copied = sharing_copy(module)
    with torch.no_grad():
        module.head.weight.mul_(2)
    assert copied.head.weight._version == module.head.weight._version
    assert shares_tensors(copied, module) and not shares_tensors(network(), module)


def test_classifiers_of_ours_keep_their_memory_format(toy_classifier):
    classifier = toy_classifier()
    assert classifier.module.stage2[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not classifier.shared


def test_a_built_explainer_of_the_network(image):
    module = network()
    explainer = tame.build_explainer(FrozenClassifier.from_module(module), "gradcam")
    assert tame.explain(image, module, method=explainer).map.shape == (28, 28)


# --- networks that are hard to copy


class Holding(ToyCNN):
    """Keeps features that are part of a graph, a network without a name, a lock, and one tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.others = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))]
        self.again = self.head
        self.kept = {}

    def forward(self, inputs):
        self.features = self.stage3(self.stage2(self.stage1(inputs)))
        self.kept["last"] = [self.others[0](self.features)]
        return self.again(self.kept["last"][0].mean((2, 3)))


def test_kept_tensors_and_networks_without_a_name():
    module = Holding()
    module(torch.rand(2, 3, 32, 32))
    others, kept = state(module.others[0]), module.kept["last"][0]
    classifier = FrozenClassifier.from_module(module, ["stage3"], SMALL)
    assert state(module.others[0]) == others
    assert module.kept["last"][0] is kept
    assert classifier.module.again is classifier.module.head
    with torch.no_grad():
        module.others[0][0].weight.mul_(-1)
    images = torch.rand(2, 3, 32, 32)
    expected = (module.eval(), module.others[0].eval())[0](classifier.normalise(images))
    torch.testing.assert_close(classifier.logits(images), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: weight_norm(head),
        lambda head: parametrizations.weight_norm(head),
        lambda head: parametrizations.spectral_norm(head),
        lambda head: prune.l1_unstructured(head, "weight", 0.5),
        lambda head: head.register_forward_hook(lambda module, inputs, output: -output),
    ],
    ids=["weight_norm of old", "weight_norm", "spectral_norm", "pruned", "hook"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_hooks_and_parametrizations(change):
    module = network()
    change(module.head)
    module(torch.rand(2, 3, 32, 32)).sum().backward()
    before = state(module)
    images = torch.rand(2, 3, 32, 32)
    classifier = FrozenClassifier.from_module(module, ["stage3"], SMALL)
    logits = classifier(images).logits
    assert state(module) == before
    torch.testing.assert_close(logits, module.eval()(classifier.normalise(images)))


def test_backward_hooks_are_not_called():
    module, seen = network(), []
    module.stage3.register_full_backward_hook(lambda *gradients: seen.append(gradients))
    module.head.weight.register_hook(seen.append)
    tame.explain(np.random.default_rng(0).random((224, 224, 3)), module, method="gradcam")
    assert not seen


def test_an_attribute_that_cannot_be_copied_is_shared_with_a_message(caplog):
    module = network()
    module.stage2.lock = threading.Lock()
    before = state(module)
    with caplog.at_level(logging.WARNING, "tame"):
        FrozenClassifier.from_module(module, ["stage3"], SMALL)
    assert state(module) == before
    assert "stage2.lock of ToyCNN cannot be copied and is shared with the classifier: cannot pickle" in caplog.text


def test_a_network_that_cannot_be_copied():
    class Refusing(ToyCNN):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    message = r"expected a network that copy.deepcopy can copy, got Refusing: no copies; FrozenClassifier\(spec"
    with pytest.raises(InputError, match=message):
        FrozenClassifier.from_module(Refusing(), ["stage3"], SMALL)


def test_parameters_without_a_shape():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(InputError, match=r"expected a network that has seen an image, got Sequential with 2\.weight"):
        FrozenClassifier.from_module(module, ["0"], SMALL)
    with pytest.raises(InputError, match="expected a network, an nn.Module, got int"):
        FrozenClassifier.from_module(5)


def test_buffers_that_change_in_eval_mode(caplog):
    class Counting(ToyCNN):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(1))

        def forward(self, inputs):
            self.passes += 1
            return super().forward(inputs)

    module = Counting()
    with caplog.at_level(logging.WARNING, "tame"):
        classifier = FrozenClassifier.from_module(module, ["stage3"], SMALL)
    classifier(torch.rand(1, 3, 32, 32))
    assert module.passes == 0
    assert "Counting changes passes in eval mode" in caplog.text


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def forward(self, images):
        return self.model(images)


@pytest.mark.parametrize("build", [Lit, toy_vit, lambda: nn.Sequential(ToyCNN()).half().float()])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_kinds_of_networks(build, mode):
    module = build()
    before = state(module)
    with mode():
        classifier = FrozenClassifier.from_module(module, preprocess=SMALL)
        classifier.logits(torch.rand(1, 3, 32, 32))
    assert state(module) == before
    assert shares_tensors(module, classifier.module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("convert", [torch.jit.script, torch.fx.symbolic_trace, nn.DataParallel])
def test_copies_of_networks_in_other_forms(convert):
    module = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)))
    copied = sharing_copy(module.train())
    assert module.training and all(each.requires_grad for each in module.parameters())
    assert not copied.training and not any(each.requires_grad for each in copied.parameters())
    with torch.no_grad():
        for each in module.parameters():
            each.mul_(2)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(copied(images), module.eval()(images))
