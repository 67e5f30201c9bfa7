from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

from tame.classifier.extractor import HookedExtractor, build_extractor, hooked_outputs, trace
from tame.utils.checks import InputError
from toys import ToyCNN, toy_vit

BLOCK = "encoder.layers.encoder_layer_1"


def literal_outputs(module: nn.Module, layers: tuple[str, ...], inputs: Tensor) -> list[Tensor]:
    """Slow reference: the outputs that forward hooks see, copied at once."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, output: outputs.update({name: output.clone()})

    handles = [module.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return [outputs[layer] for layer in layers]


def assert_features_equal_outputs(module: nn.Module, layers: tuple[str, ...], inputs: Tensor) -> None:
    """Both extractors return the modules' own outputs and the same logits, in every grad mode."""
    module.eval().requires_grad_(False)  # frozen: attention takes the same path in every grad mode
    expected = literal_outputs(module, layers, inputs)
    for extractor in (build_extractor(module, layers), HookedExtractor(module, layers)):
        for around in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with around():
                outputs, logits = extractor(inputs), module(inputs)
            for index, value in enumerate(expected):
                torch.testing.assert_close(outputs[str(index)], value, atol=0, rtol=0)
            torch.testing.assert_close(outputs["logits"], logits, atol=0, rtol=0)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("layers", [("ln_1",), ("ln_2",), ("ln_1", "ln_2"), ("ln_2", "ln_1")])
def test_a_module_name_that_ends_in_1_or_2_means_that_module(layers: tuple[str, ...]) -> None:
    # the tracer calls module ln_1 "ln" and module ln_2 "ln_1"
    assert_features_equal_outputs(toy_vit(), tuple(f"{BLOCK}.{layer}" for layer in layers), torch.rand(2, 3, 32, 32))


def test_a_whole_block_can_be_read() -> None:
    assert_features_equal_outputs(toy_vit(), (BLOCK, "encoder"), torch.rand(2, 3, 32, 32))


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
    assert_features_equal_outputs(Reused(), (layer,), torch.rand(2, 4))


class Overwriting(nn.Module):
    """The operation after the convolution overwrites its output in place, in one of several ways."""

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
def test_a_feature_is_not_overwritten_in_place(how: str) -> None:
    assert_features_equal_outputs(Overwriting(how), ("conv",), torch.rand(2, 3, 4, 4) - 0.5)


BOTH = pytest.mark.parametrize("build", [build_extractor, HookedExtractor])


@BOTH
def test_the_gradient_of_the_logits_still_reaches_a_feature(build: Callable[..., nn.Module]) -> None:
    module = Overwriting("module").eval()
    outputs = build(module, ["conv"])(torch.rand(1, 3, 4, 4))
    (gradient,) = torch.autograd.grad(outputs["logits"].sum(), outputs["0"])
    torch.testing.assert_close(gradient, (outputs["0"] > 0) / 16)  # gradient of the mean after the ReLU


def test_features_inside_composed_blocks_do_not_depend_on_earlier_features() -> None:
    module = mobilenet_v3_small(weights=None).eval()
    inputs = torch.rand(1, 3, 64, 64)
    for _ in range(2):
        assert_features_equal_outputs(module, ("features.0.0", "features.1.block.1.fc1"), inputs)


def test_parameters_are_shared() -> None:
    module = ToyCNN().eval()
    extractor = build_extractor(module, ["stage1"])
    inputs = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = extractor(inputs)["logits"]
        module.head.bias.add_(1)
        after = extractor(inputs)["logits"]
    torch.testing.assert_close(after, before + 1)


def test_an_unknown_layer_shows_similar_names() -> None:
    with pytest.raises(InputError, match="'stage4' is not a layer of ToyCNN; similar names: stage"):
        build_extractor(ToyCNN(), ["stage4"])


@BOTH
def test_a_layer_that_is_never_called_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(InputError, match="layer 'relu' is never reached by the forward pass of Overwriting"):
        build(Overwriting("function"), ["relu"])(torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="layer 'relu' is never reached by the forward pass of Overwriting"):
        hooked_outputs(Overwriting("function"), ["relu"], torch.rand(1, 3, 4, 4))


@BOTH
@pytest.mark.parametrize("layers", [["stage1", "stage1"], ["stage1", "stage1.2"], ["stage1.2", "stage1"]])
def test_two_names_of_one_output_are_refused(build: Callable[..., nn.Module], layers: list[str]) -> None:
    with pytest.raises(InputError, match="expected layers with different outputs, got the same .* in stage1.*, stage1"):
        build(ToyCNN(), layers)(torch.rand(1, 3, 32, 32))


class Answering(nn.Module):
    """Returns a dictionary, or has control flow that depends on values."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.how = how

    def forward(self, inputs: Tensor) -> Any:
        logits = self.head(inputs)
        if self.how == "dict":
            return {"logits": logits}
        return logits if logits.sum() > 0 else -logits


@BOTH
def test_a_classifier_that_returns_a_dictionary_is_refused(build: Callable[..., nn.Module]) -> None:
    with pytest.raises(InputError, match="expected a classifier that returns one tensor of logits, got {'logits'"):
        build(Answering("dict"), ["head"])(torch.rand(2, 4))


class Keywords(nn.Module):
    """Its forward pass passes keywords on and checks its inputs, as those of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_1 = nn.Linear(4, 4)
        self.stem_2 = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))

    def forward(self, inputs: Tensor | None = None, **options: Any) -> Tensor:
        if inputs is None or not isinstance(inputs, Tensor):
            raise ValueError("no inputs")
        return self.stem_2(self.stem_1(inputs, **options))


class Caching(nn.Module):
    """Caches a value in the first pass, and then fails in the tracer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.kept: dict[str, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        if "scale" not in self.kept:
            self.kept["scale"] = self.head.bias * 2
        return self.head(inputs) * self.kept["scale"] * len(list(inputs))


@pytest.mark.parametrize(
    ("module", "layers"),
    [(Answering("values"), ("head",)), (Keywords(), ("stem_1", "stem_2")), (Caching(), ("head",))],
)
def test_a_classifier_that_cannot_be_traced_is_read_with_hooks(
    module: nn.Module, layers: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="tame"):
        for _ in range(2):
            assert isinstance(build_extractor(module, layers), HookedExtractor)
    assert_features_equal_outputs(module, layers, torch.rand(2, 4))
    (message,) = caplog.messages  # once
    assert message.startswith(f"{type(module).__name__} cannot be traced by torch.fx: ")
    assert message.endswith("; its layers are read with forward hooks instead") and "\n" not in message


def test_tracing_leaves_nothing_in_the_module() -> None:
    module = Caching()
    with pytest.raises(InputError, match="Caching cannot be traced by torch.fx: .*iter"):
        trace(module)
    assert not module.kept


class Constant(nn.Module):
    """Adds a tensor that belongs to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs) + torch.tensor([1.0, 2.0])


def test_constants_are_part_of_the_graph() -> None:
    assert not isinstance(build_extractor(Constant(), ("head",)), HookedExtractor)
    assert_features_equal_outputs(Constant(), ("head",), torch.rand(2, 4))


def test_an_unknown_layer_of_a_classifier_that_cannot_be_traced_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="'heads' is not a layer of Answering; similar names: head"):
        build_extractor(Answering("values"), ["heads"])


def test_hooks_are_gone_after_a_failing_pass() -> None:
    module = ToyCNN().eval()
    with pytest.raises(RuntimeError):
        hooked_outputs(module, ["stage1"], torch.rand(1, 4, 32, 32))
    with pytest.raises(RuntimeError):
        HookedExtractor(module, ["stage1"])(torch.rand(1, 4, 32, 32))
    assert not any(part._forward_hooks for part in module.modules())
