from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from tame.backbones.taps import build_extractor, hooked_outputs
from tame.checks import InputError
from toys import ToyCNN, toy_vit

BLOCK = "encoder.layers.encoder_layer_1"


def literal_outputs(module: nn.Module, layers: tuple[str, ...], inputs: Tensor) -> list[Tensor]:
    """What hooks see, copied at once: the slow twin of the extractor."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, output: outputs.update({name: output.clone()})

    handles = [module.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return [outputs[layer] for layer in layers]


def assert_taps_equal_outputs(module: nn.Module, layers: tuple[str, ...], inputs: Tensor) -> None:
    module.eval()
    expected = literal_outputs(module, layers, inputs)
    extractor = build_extractor(module, layers)
    with torch.no_grad():
        tapped, logits = extractor(inputs), module(inputs)
    for index, value in enumerate(expected):
        torch.testing.assert_close(tapped[str(index)], value, atol=0, rtol=0)
    torch.testing.assert_close(tapped["logits"], logits, atol=0, rtol=0)


@pytest.mark.parametrize("layers", [("ln_1",), ("ln_2",), ("ln_1", "ln_2"), ("ln_2", "ln_1")])
def test_a_module_name_that_ends_in_1_or_2_means_that_module(layers: tuple[str, ...]) -> None:
    # the tracer calls module ln_1 "ln" and module ln_2 "ln_1"
    assert_taps_equal_outputs(toy_vit(), tuple(f"{BLOCK}.{layer}" for layer in layers), torch.rand(2, 3, 32, 32))


def test_a_whole_block_can_be_tapped() -> None:
    assert_taps_equal_outputs(toy_vit(), (BLOCK, "encoder"), torch.rand(2, 3, 32, 32))


class Reused(nn.Module):
    """One leaf and one container, both called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf_1 = nn.Linear(4, 4)
        self.container_1 = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, inputs: Tensor) -> Tensor:
        once = self.container_1(self.leaf_1(inputs))
        return self.container_1(self.leaf_1(once)) + inputs


@pytest.mark.parametrize("layer", ["leaf_1", "container_1"])
def test_a_module_called_twice_means_its_last_call(layer: str) -> None:
    assert_taps_equal_outputs(Reused(), (layer,), torch.rand(2, 4))


class Overwriting(nn.Module):
    """What follows the convolution writes into its output, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.how = how

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.conv(inputs)
        if self.how == "module":
            out = self.relu(out)
        elif self.how == "function":
            out = F.relu(out, inplace=True)
        elif self.how == "method":
            out.relu_()
        elif self.how == "view":
            out.flatten(1).mul_(2)
        else:
            out += 1
        return out.mean((2, 3))


@pytest.mark.parametrize("how", ["module", "function", "method", "view", "operator"])
def test_a_tap_is_not_overwritten_in_place(how: str) -> None:
    assert_taps_equal_outputs(Overwriting(how), ("conv",), torch.rand(2, 3, 4, 4) - 0.5)


def test_the_gradient_of_the_logits_still_reaches_a_tap() -> None:
    extractor = build_extractor(Overwriting("module").eval(), ["conv"])
    outputs = extractor(torch.rand(1, 3, 4, 4))
    (gradient,) = torch.autograd.grad(outputs["logits"].sum(), outputs["0"])
    assert gradient.any()


def test_taps_inside_composed_blocks_do_not_depend_on_earlier_taps() -> None:
    module = mobilenet_v3_small(weights=None).eval()
    inputs = torch.rand(1, 3, 64, 64)
    for _ in range(2):
        assert_taps_equal_outputs(module, ("features.0.0", "features.1.block.1.fc1"), inputs)


def test_parameters_are_shared() -> None:
    module = ToyCNN().eval()
    extractor = build_extractor(module, ["stage1"])
    inputs = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = extractor(inputs)["logits"]
        module.head.bias.add_(1)
        after = extractor(inputs)["logits"]
    torch.testing.assert_close(after, before + 1)


def test_an_unknown_layer_shows_near_names() -> None:
    with pytest.raises(InputError, match="'stage4' is no layer of ToyCNN; near names: stage"):
        build_extractor(ToyCNN(), ["stage4"])


def test_a_layer_that_is_never_called_is_refused() -> None:
    with pytest.raises(InputError, match="layer 'relu' is never reached by the forward pass of Overwriting"):
        build_extractor(Overwriting("function"), ["relu"])


@pytest.mark.parametrize("layers", [["stage1", "stage1"], ["stage1", "stage1.2"]])
def test_two_names_of_one_output_are_refused(layers: list[str]) -> None:
    with pytest.raises(InputError, match="expected different layers, got the same output twice in stage1, stage1"):
        build_extractor(ToyCNN(), layers)


class Answering(nn.Module):
    """A classifier that returns a dictionary, or decides by the values it sees."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.how = how

    def forward(self, inputs: Tensor) -> Any:
        logits = self.head(inputs)
        if self.how == "dict":
            return {"logits": logits}
        return logits if logits.sum() > 0 else -logits


def test_a_classifier_that_returns_a_dictionary_is_refused() -> None:
    with pytest.raises(InputError, match="expected a classifier that returns one tensor of logits, got {'logits'"):
        build_extractor(Answering("dict"), ["head"])


def test_a_classifier_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(InputError, match="Answering cannot be traced by torch.fx: .*control flow"):
        build_extractor(Answering("values"), ["head"])


def test_hooks_are_gone_after_a_failing_pass() -> None:
    module = ToyCNN().eval()
    with pytest.raises(RuntimeError):
        hooked_outputs(module, ["stage1"], torch.rand(1, 4, 32, 32))
    assert not any(part._forward_hooks for part in module.modules())
