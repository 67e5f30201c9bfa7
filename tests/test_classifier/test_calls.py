"""One module called several times: every call is a layer, read, differentiated and split on its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier, Preprocessing
from tame.classifier.gradients import graph_from
from tame.classifier.probing.layer_table import layer_table
from tame.classifier.split import split_at
from tame.explainers.cams import GradCAM
from tame.utils.checks import InputError

SMALL = Preprocessing(32, 32)


class Tutorial(nn.Module):
    """PyTorch's CIFAR-10 tutorial network: one pooling layer at two places."""

    def __init__(self, branch: bool = False) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5)
        self.fc, self.branch = nn.Linear(16 * 5 * 5, 10), branch

    def forward(self, x: Tensor) -> Tensor:
        if self.branch and x.isnan().any():  # cannot be traced
            raise ValueError
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.fc(x.flatten(1))


class Shared(nn.Module):
    """A block of several modules, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(self.block(self.stem(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(params=[False, True], ids=["traced", "hooks"])
def tutorial(request: pytest.FixtureRequest) -> FrozenClassifier:
    torch.manual_seed(0)
    classifier = FrozenClassifier.from_module(Tutorial(request.param), preprocess=SMALL)
    assert classifier.traced is not request.param
    return classifier


def test_both_calls_of_a_shared_pool_are_proposed_and_read(tutorial: FrozenClassifier) -> None:
    assert tutorial.layers == ("pool#1", "conv2", "pool#2")
    images = torch.rand(2, 3, 32, 32)
    net = tutorial.module
    first = net.pool(net.conv1(tutorial.normalise(images)).relu())
    second = net.conv2(first)
    logits, features = tutorial(images)
    for got, want in zip(features, (first, second, net.pool(second.relu())), strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(logits, tutorial.logits(images))


def test_the_table_lists_calls() -> None:
    torch.manual_seed(0)
    classifier = FrozenClassifier.from_module(Tutorial(), preprocess=SMALL)
    rows = {layer.name: layer for layer in layer_table(classifier.spec, classifier.module).layers}
    assert list(rows) == ["conv1", "pool#1", "conv2", "pool#2", "fc"]
    assert (rows["pool#1"].shape, rows["pool#2"].shape) == ((6, 14, 14), (16, 5, 5))
    assert rows["pool#2"].cam and not rows["pool#1"].cam


@pytest.mark.parametrize("layer", ["pool#1", "pool#2", "pool"])
def test_gradients_start_and_splits_cut_at_the_call(tutorial: FrozenClassifier, layer: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    net = tutorial.module
    first = net.pool(net.conv1(tutorial.normalise(images)).relu())
    want = first if layer == "pool#1" else net.pool(net.conv2(first).relu())
    leaf, logits = graph_from(tutorial, layer, images)
    torch.testing.assert_close(leaf.detach(), want)
    assert torch.autograd.grad(logits.sum(), leaf)[0].any()
    split = split_at(tutorial, layer)
    values = split.before(images)
    torch.testing.assert_close(values[0], want)
    torch.testing.assert_close(split.after(*values), tutorial.logits(images))
    changed = split.after(values[0] * 0, *values[1:])
    torch.testing.assert_close(changed[0], changed[1])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_calls_of_a_block_that_works_in_place(number: int) -> None:
    torch.manual_seed(0)
    net = Shared().eval()
    classifier = FrozenClassifier.from_module(net, [f"block#{number}"], SMALL)
    images = torch.rand(2, 3, 32, 32)
    want = net.stem(classifier.normalise(images))
    for _ in range(number):
        want = net.block(want)
    assert classifier.traced
    torch.testing.assert_close(classifier(images).features[0], want)


def test_a_plain_name_is_the_last_call_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    classifier = FrozenClassifier.from_module(Shared(), ["block"], SMALL)
    said = "block is called 3 times: the output of its last call is read; block#1 names the first call"
    assert said in caplog.messages
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        classifier(images).features[0], classifier.with_layers(["block#3"])(images).features[0], rtol=0, atol=0
    )
    with pytest.raises(InputError, match="got the same output twice in block, block#3"):
        classifier.with_layers(["block", "block#3"])


def test_calls_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="layer 'block#4' is never reached"):
        FrozenClassifier.from_module(Shared(), ["block#4"], SMALL)
    with pytest.raises(InputError, match="'block#0' is not a layer of Shared; similar names: block"):
        FrozenClassifier.from_module(Shared(), ["block#0"], SMALL)


class Brightness(nn.Module):
    """Class 0 is white light: its evidence is where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.fill_(0.1), self.conv.bias.zero_()
            self.head.weight.copy_(torch.eye(2)), self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.act(self.conv(x))).flatten(1))


class Averaged(nn.Module):
    def __init__(self, *nets: nn.Module, flips: tuple[bool, ...]) -> None:
        super().__init__()
        self.nets, self.flips = nn.ModuleList(nets), flips

    def forward(self, x: Tensor) -> Tensor:
        nets = list(self.nets) * (len(self.flips) // len(self.nets))
        return torch.stack([net(x.flip(-1) if flip else x) for net, flip in zip(nets, self.flips, strict=True)]).mean(0)


PLAIN = Preprocessing(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize(
    ("count", "flips", "layer"),
    [
        (1, (False, True), "nets.0.act#1"),
        (1, (True, False), "nets.0.act#2"),
        (2, (False, True), "nets.0.act"),
        (2, (True, False), "nets.1.act"),
    ],
)
def test_of_flipped_images_the_map_lies_on_the_side_of_the_object(
    count: int, flips: tuple[bool, ...], layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = Averaged(*(Brightness() for _ in range(count)), flips=flips)
    classifier = FrozenClassifier.from_module(net, preprocess=PLAIN)
    assert classifier.layers == (layer,)
    (said,) = [message for message in caplog.messages if "side by side" in message]
    assert f"read: {layer}" in said and "not read, since they see a flipped or turned image: nets." in said
    images = torch.zeros(1, 3, 32, 32)
    images[..., 8:24, 2:12] = 1  # an object in the left half
    (found,) = GradCAM(classifier)(images, torch.tensor([0]))
    assert found[:, :16].sum() > 0.99 * found.sum() > 0


def test_a_network_that_only_sees_flipped_images_has_no_layers(caplog: pytest.LogCaptureFixture) -> None:
    net = Averaged(Brightness(), Brightness(), flips=(True, True))
    classifier = FrozenClassifier.from_module(net, preprocess=PLAIN)
    why = "expected layers of Averaged that see the image unflipped, got a flipped"
    assert [message.startswith(why) for message in caplog.messages] == [True]
    with pytest.raises(InputError, match=why):
        GradCAM(classifier)


def test_of_an_ensemble_the_choice_is_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Averaged(Brightness(), Brightness(), flips=(False, False))
    assert FrozenClassifier.from_module(net, preprocess=PLAIN).layers == ("nets.1.act",)
    assert caplog.messages == [
        "several layers of Averaged reach the logits side by side; read: nets.1.act; "
        "not read: nets.0.conv, nets.0.act; choose others by name (layers)"
    ]


class Patches(nn.Module):
    """A small transformer that averages its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.square().mean(1))


@pytest.mark.parametrize(("flips", "number"), [((False, True), 1), ((True, False), 2)])
def test_tokens_of_flipped_images_are_not_read(flips: tuple[bool, ...], number: int) -> None:
    classifier = FrozenClassifier.from_module(Averaged(Patches(), flips=flips), preprocess=SMALL)
    assert classifier.layers == tuple(f"nets.0.blocks.{block}.0#{number}" for block in (1, 2, 3))


def test_transformers_side_by_side_are_no_blocks(caplog: pytest.LogCaptureFixture) -> None:
    classifier = FrozenClassifier.from_module(Averaged(Patches(), Patches(), flips=(False,) * 2), preprocess=SMALL)
    assert classifier.layers == tuple(f"nets.1.blocks.{block}.0" for block in (1, 2, 3))
    assert any("not read: nets.0.blocks.0.0, nets.0.blocks.1.0" in message for message in caplog.messages)


def test_a_block_that_is_applied_again_and_again_gives_a_layer_each_time() -> None:
    class Universal(Patches):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).mT
            for _ in range(5):
                x = x + self.blocks[0](x)
            return self.head(x.square().mean(1))

    classifier = FrozenClassifier.from_module(Universal(), preprocess=SMALL)
    assert classifier.layers == tuple(f"blocks.0.0#{number}" for number in (3, 4, 5))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_weights_are_no_layers(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.MaxPool2d(2), norm(nn.Conv2d(4, 4, 5)), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm(nn.Linear(4, 2))])
    classifier = FrozenClassifier.from_module(net, preprocess=SMALL)
    assert classifier.layers == ("1", "2", "4")
    names = [layer.name for layer in layer_table(classifier.spec, classifier.module).layers]
    assert not any("parametrizations" in name for name in names)
