"""Splitting a classifier at a layer is exact, and layers before it do not run again."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.classifier.split import SplitClassifier, _agrees, split_at
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
ROWS = torch.tensor([2, 0, 0, 1, 2])


def said_of_splits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages but those that name the last call of a module called several times."""
    return [message for message in caplog.messages if "the output of its last call is read" not in message]


def images(batch: int = 3, side: int = 64) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def frozen(module: nn.Module, layer: str, side: int = 64, tokens: TokenLayout | None = None) -> FrozenClassifier:
    """Freeze a network of 10 classes with random batch norm statistics."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(std=0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    classes = tuple(map(str, range(10)))
    spec = BackboneSpec("net", nn.Identity, Preprocessing(side, side), class_names=classes, tokens=tokens)
    return FrozenClassifier(spec, module, [layer])


def replaced_logits(classifier: FrozenClassifier, layer: str, given: Tensor, output: Tensor) -> Tensor:
    """Slow reference: the whole network, with the output of the layer's last call replaced."""
    module, calls = classifier.module.get_submodule(layer), []
    handle = module.register_forward_hook(lambda *_: calls.append(0))
    classifier.logits(given)
    handle.remove()

    def replace(*_: object) -> Tensor | None:
        calls.pop()
        return None if calls else output.clone()

    handle = module.register_forward_hook(replace)
    logits = classifier.logits(given)
    handle.remove()
    return logits


def assert_exact(classifier: FrozenClassifier, layer: str, given: Tensor) -> None:
    """Both parts together equal the network, also with repeated rows and a changed output of the layer."""
    split = split_at(classifier, layer)
    values = split.before(given)
    kept = [value.clone() for value in values]
    scale = float(classifier.logits(given).abs().max())
    found = split.after(*(value[ROWS] for value in values))
    torch.testing.assert_close(found, classifier.logits(given[ROWS]), rtol=0, atol=1e-5 * scale)
    changed = values[0][ROWS] * torch.linspace(0, 2, len(ROWS)).view(-1, *[1] * (values[0].ndim - 1))
    expected = replaced_logits(classifier, layer, given[ROWS], changed)
    found = split.after(changed.clone(), *(value[ROWS] for value in values[1:]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not found.requires_grad
    assert_gradient_exact(split, layer, given)
    assert all(torch.equal(value, copy) for value, copy in zip(values, kept, strict=True))


def assert_gradient_exact(split: SplitClassifier, layer: str, given: Tensor) -> None:
    """Gradients of all logits' squares reach the layer's output as they do in the whole network."""
    values = split.before(given)
    leaves = [(values[0] / 2).requires_grad_() for _ in range(2)]  # not the images' own values
    found = split.after(leaves[0], *(value.clone() for value in values[1:]))
    expected = replaced_logits(split.classifier, layer, given, leaves[1])
    gradients = [
        torch.autograd.grad(logits.square().sum(), leaf)[0]
        for logits, leaf in zip((found, expected), leaves, strict=True)
    ]
    assert gradients[1].any()
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4 * float(gradients[1].abs().max()))


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (  # in-place sums and activations after the layer, skip connections, a module called twice
            models.resnet18,
            ["layer3", "layer4", "layer4.0.conv1", "layer4.0.bn2", "layer4.0.downsample", "layer4.1.relu"],
        ),
        (models.mobilenet_v3_small, ["features.8.block.2.fc2", "features.8.block.0", "features.12"]),  # a gate
        (models.shufflenet_v2_x0_5, ["stage4.1.branch2", "stage4.1.branch2.2", "conv5"]),  # chunks, sizes
        (models.densenet121, ["features.denseblock4.denselayer15", "features.norm5"]),  # lists of many earlier values
        (models.vgg11, ["features.18"]),
    ],
)
def test_exact(build: Callable[..., nn.Module], layers: list[str], caplog: pytest.LogCaptureFixture) -> None:
    module = build(num_classes=10)
    for layer in layers:
        assert_exact(frozen(module, layer), layer, images())
    assert not said_of_splits(caplog)  # all could be split


@pytest.mark.parametrize("layer", ["ln_1", "ln_2", "mlp", "self_attention_and_skip"])
def test_exact_for_tokens(toy_classifier: Make, layer: str, caplog: pytest.LogCaptureFixture) -> None:
    block = "encoder.layers.encoder_layer_1"
    layer = block if layer.endswith("skip") else f"{block}.{layer}"
    assert_exact(toy_classifier("vit"), layer, images(side=32))
    assert not said_of_splits(caplog)


def test_only_what_comes_after_the_layer_runs_again() -> None:
    classifier = frozen(models.resnet18(num_classes=10), "layer4.0.conv1")
    ran: list[str] = []
    for name, part in classifier.module.named_modules():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    split = split_at(classifier, "layer4.0.conv1")
    ran.clear()
    values = split.before(images())
    first = set(ran)
    assert "layer3.1.bn2" in first and "layer4.0.conv1" in first and "layer4.0.bn2" not in first
    ran.clear()
    split.after(*values)
    assert "fc" in ran and "layer4.0.bn1" in ran and not first & set(ran) - {""}
    assert [tuple(value.shape) for value in values] == [(3, 512, 2, 2), (3, 512, 2, 2)]  # and the skip, downsampled


class Sizes(nn.Module):
    """Uses sizes from before the layer after it, among them the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(inputs)
        batch, channels, height, width = features.shape
        return self.head(self.norm(features).relu().view(batch, channels, height * width).mean(2))


def test_sizes_from_before_the_layer(caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(frozen(Sizes(), "norm"), "norm", images())
    assert not said_of_splits(caplog)


class Recurring(nn.Module):
    """One convolution called twice, in-place activations on its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem(inputs)
        for _ in range(2):
            features = features + F.relu_(self.conv(features))
        return self.head(features.mean((2, 3)))


class SequenceFirst(Recurring):
    """The value that the skip connection needs has its positions on the first axis, not the images."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(self.stem(inputs))
        skip = features.flatten(2).permute(2, 0, 1)  # (n, B, C)
        deep = self.conv(features).relu_().flatten(2).permute(2, 0, 1)
        return self.head((skip + deep).mean(0))


def test_the_last_of_several_calls(caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(frozen(Recurring(), "conv"), "conv", images())
    assert not said_of_splits(caplog)


def test_what_cannot_be_split_runs_the_whole_network_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    classifier = frozen(SequenceFirst(), "conv")
    with caplog.at_level(logging.WARNING, "tame"):
        assert_exact(classifier, "conv", images())
    assert said_of_splits(caplog) == ["net cannot be split at conv: the whole network is run for each change"]
    assert all(not part._forward_hooks for part in classifier.module.modules())


class Branching(Recurring):
    """Its control flow depends on values."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(self.stem(inputs))
        return self.head(self.conv(features if features.sum() > -1e9 else -features).relu().mean((2, 3)))


class Strange(Recurring):
    """Uses an attribute that only the tracer's proxies have, so that the traced graph cannot run."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(self.stem(inputs))
        return self.head((features * features.strange if hasattr(features, "strange") else features).mean((2, 3)))


@pytest.mark.parametrize("module", [Branching, Strange])
def test_what_cannot_be_traced_runs_the_whole_network_and_logs_it(
    module: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    classifier = frozen(module(), "conv")
    with caplog.at_level(logging.WARNING, "tame"):
        assert_exact(classifier, "conv", images())
        with pytest.raises(InputError, match="'con' is not a layer of .*; similar names: conv"):
            split_at(classifier, "con")
    assert said_of_splits(caplog)[0] == "net cannot be split at conv: the whole network is run for each change"


class Hidden(Recurring):
    """Overwrites a value from before the layer after the layer has read it."""

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem(inputs)
        total = features + self.conv(features)
        features.mul_(-3)
        return self.head((total + features).mean((2, 3)))


def test_a_split_that_would_be_wrong_is_detected(caplog: pytest.LogCaptureFixture) -> None:
    assert_exact(frozen(Hidden(), "conv"), "conv", images())
    assert len(caplog.records) == 1


class Unused(Recurring):
    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem(inputs)
        self.conv(features)
        return self.head(features.mean((2, 3)))


def test_a_layer_that_does_not_matter() -> None:
    with pytest.raises(InputError, match="expected a layer that the logits of net depend on, got 'conv'"):
        split_at(frozen(Unused(), "conv"), "conv")


def test_it_moves_and_is_copied_with_its_classifier() -> None:
    """As in training: on another device, in half precision, and in a copy whose weights change."""
    classifier = frozen(models.resnet18(num_classes=10), "layer4")
    whole = nn.ModuleDict({"classifier": classifier, "split": split_at(classifier, "layer4")})
    copied = copy.deepcopy(whole)
    copied["classifier"].module.fc.weight.data.zero_()
    whole.train()
    assert not any(part.training for part in classifier.module.modules())
    split, other = whole["split"], copied["split"]
    assert isinstance(split, SplitClassifier) and isinstance(other, SplitClassifier)
    values = split.before(images())
    bias = copied["classifier"].module.fc.bias
    torch.testing.assert_close(other.after(*values), bias.expand(3, -1))
    assert split.after(*values).std() > 0
    whole.to("meta")
    assert all(tensor.is_meta for tensor in [*split.parameters(), *split.buffers()])


@pytest.mark.parametrize("module", [models.resnet18, Branching])
def test_gradients_under_autocast(module: Callable[..., nn.Module]) -> None:
    layer = "conv" if module is Branching else "layer4"
    classifier = frozen(module() if module is Branching else module(num_classes=10), layer)
    split = split_at(classifier, layer)
    mask = torch.rand(3, 1, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output, *others = split.before(images())
        split.after(output * mask, *others).float().square().sum().backward()
    assert mask.grad is not None and mask.grad.isfinite().all() and mask.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("dtype", "error", "agrees"),
    [
        (torch.float32, 1e-2, False),
        (torch.float32, 1e-4, False),
        (torch.float32, 1e-6, True),
        (torch.bfloat16, 3e-2, False),
        (torch.bfloat16, 1e-3, True),
    ],
)
def test_logits_may_differ_by_rounding_only(dtype: torch.dtype, error: float, agrees: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    class Off(SplitClassifier):
        def before(self, images: Tensor) -> tuple[Tensor, ...]:
            return (images,)

        def after(self, *values: Tensor) -> Tensor:
            return self.classifier.logits(values[0]) * (1 + error)

    assert _agrees(Off(frozen(net.to(dtype), "1")), images(2)) is agrees
