from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier, Preprocessing, TokenLayout
from tame.classifier.probing.proposal import find_tokens, propose_layers
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN, toy_vit


@pytest.mark.parametrize(("count", "expected"), [(1, ("stage3",)), (2, ("stage2", "stage3"))])
def test_fewer_layers_are_the_deepest(count: int, expected: tuple[str, ...]) -> None:
    assert propose_layers(TOY_SPECS["cnn"], ToyCNN().eval(), count) == expected


def test_blocks_after_which_patches_are_lost_are_not_proposed() -> None:
    spec = TOY_SPECS["vit"]
    layers = propose_layers(spec, spec.build().eval(), count=10)
    assert layers == spec.layers["proposed"]  # not the norm after the last block, where only the class token counts


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_a_proposal_leaves_no_trace(kind: str) -> None:
    spec = TOY_SPECS[kind]
    module = spec.build().eval()
    heads = [part for part in module.modules() if isinstance(part, nn.Linear)]
    nn.init.zeros_(heads[-1].weight)  # as torchvision starts a transformer's head
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    propose_layers(spec, module)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_a_proposal_works_without_gradients_around_it() -> None:
    with torch.no_grad():
        assert propose_layers(TOY_SPECS["cnn"], ToyCNN().eval().requires_grad_(False))[-1] == "stage3"


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.mean((2, 3)))


def test_a_classifier_without_maps_asks_for_layers() -> None:
    spec = replace(TOY_SPECS["cnn"], name="flat")
    with pytest.raises(InputError, match=r"no feature layers found in flat; choose them by module name \(layers\)"):
        propose_layers(spec, Flat().eval())


def test_a_network_of_another_shape_proposes_the_same_stages() -> None:
    spec = replace(TOY_SPECS["cnn"], preprocessing=Preprocessing((40, 72), (40, 72)))
    layers = propose_layers(spec, ToyCNN().eval())
    assert layers == ("stage1", "stage2", "stage3")
    classifier = FrozenClassifier(spec, ToyCNN(), layers)
    assert [tuple(each.shape[1:]) for each in classifier(torch.rand(1, 3, 40, 72)).features] == [
        (8, 20, 36),
        (12, 10, 18),
        (16, 5, 9),
    ]


class Untraceable(ToyCNN):
    def forward(self, inputs: Tensor, **options: object) -> Tensor:
        return super().forward(inputs if inputs.sum() > 0 else inputs * 1)


def test_a_network_that_cannot_be_traced_proposes_what_its_twin_proposes() -> None:
    layers = propose_layers(TOY_SPECS["cnn"], Untraceable().eval())
    assert layers == ("stage1", "stage2", "stage3")
    assert not FrozenClassifier(TOY_SPECS["cnn"], Untraceable(), layers).traced


class Stage(nn.Module):
    """Attention over the positions of a feature map, with channels last; its weights are a map of n x n."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.block = nn.Sequential(Attention(outputs))
        self.norm = nn.LayerNorm(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.block(self.down(inputs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.keys = nn.Linear(channels, channels)
        self.weights = nn.Softmax(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = inputs.flatten(1, 2)
        weights = self.weights((tokens @ self.keys(tokens).mT)[:, None])  # (B, 1, n, n)
        return inputs + (weights[:, 0] @ tokens).view_as(inputs)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(Stage(3, 8), Stage(8, 12), Stage(12, 16), Stage(16, 20))
        self.head = nn.Linear(20, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.stages(inputs.permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.mark.parametrize("side", [32, 48])  # 16, 8, 4, 2 and 24, 12, 6, 3, where attention has weights of 9 x 9
def test_channels_may_be_last_and_attention_is_no_stage(side: int) -> None:
    spec = replace(TOY_SPECS["cnn"], preprocessing=Preprocessing(side, side))
    layers = propose_layers(spec, ChannelsLast().eval())
    assert layers == ("stages.1", "stages.2", "stages")
    assert FrozenClassifier(spec, ChannelsLast(), layers).channels == (12, 16, 20)


class OtherNorm(nn.Module):
    """A norm of another class than LayerNorm, without mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 1, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens / tokens.square().mean(-1, keepdim=True).sqrt() * self.gain


def test_norms_are_known_by_what_they_do_and_blocks_by_their_list() -> None:
    spec = TOY_SPECS["vit"]
    module = spec.build().eval()
    for block in module.encoder.layers:
        block.ln_1, block.ln_2 = OtherNorm(16), OtherNorm(16)
    assert propose_layers(spec, nn.Sequential(module, nn.Identity()).eval()) == tuple(
        f"0.{name}" for name in spec.layers["proposed"]
    )


class Residual(nn.Module):
    """A residual block whose last norm is zero; its skip connection sees every fourth position."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(3, 8, 3, stride=4)
        self.conv = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.around = nn.Conv2d(8, 8, 1, stride=2)
        self.head = nn.Linear(8, 5)
        nn.init.zeros_(self.norm.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stage(inputs)
        return self.head((self.norm(self.conv(features)) + self.around(features)).mean((2, 3)))


def test_norms_of_weight_zero_hide_no_layer() -> None:
    module = Residual().eval()
    assert propose_layers(TOY_SPECS["cnn"], module) == ("stage", "around")
    assert not module.norm.weight.any()


class Shrinking(nn.Module):
    """A pyramid of token sequences: 64 tokens, then 16."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.first(self.embed(inputs).flatten(2).mT)
        return self.head(self.second(tokens[:, ::4]).mean(1))


def test_a_network_of_sequences_without_one_grid_is_refused() -> None:
    assert find_tokens(Shrinking().eval(), (3, 32, 32)) is None
    with pytest.raises(InputError, match="most of toy_cnn works on token sequences of unknown layout"):
        propose_layers(TOY_SPECS["cnn"], Shrinking().eval())


def test_an_input_that_the_network_rejects_is_reported() -> None:
    spec = replace(TOY_SPECS["vit"], preprocessing=Preprocessing(40, 40))
    with pytest.raises(InputError, match=r"expected toy_vit to classify images of shape \(1, 3, 40, 40\), got .*40"):
        propose_layers(spec, spec.build().eval())


TOKENS: list[tuple[Callable[[], nn.Module], tuple[int, int], TokenLayout | None]] = [
    (toy_vit, (32, 32), TokenLayout(1, (4, 4))),
    (ToyCNN, (32, 32), None),
    (ChannelsLast, (32, 32), None),
    (Flat, (32, 32), None),
]


@pytest.mark.parametrize(("build", "size", "expected"), TOKENS)
def test_tokens_are_found(build: Callable[[], nn.Module], size: tuple[int, int], expected: TokenLayout | None) -> None:
    random = torch.get_rng_state()
    module = build().eval()
    torch.set_rng_state(random)
    assert find_tokens(module, (3, *size)) == expected
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize(
    ("name", "options", "size", "expected"),
    [
        ("vit_tiny_patch16_224", {"img_size": (64, 96), "depth": 2}, (64, 96), TokenLayout(1, (4, 6))),
        ("deit_tiny_distilled_patch16_224", {"img_size": 96, "depth": 2}, (96, 96), TokenLayout(2, (6, 6))),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 112, "depth": 2}, (112, 112), TokenLayout(5, (8, 8))),
        ("beit_base_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 48}, (64, 64), TokenLayout(1, (4, 4))),
        ("mixer_s32_224", {"img_size": 128}, (128, 128), TokenLayout(0, (4, 4))),
        ("cait_xxs24_224", {"img_size": 64, "depth": 3}, (64, 64), TokenLayout(0, (4, 4))),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 2, 1)}, (64, 64), None),
        ("mobilevit_xxs", {}, (64, 64), None),
        ("resnet10t", {}, (64, 64), None),
        ("levit_128s", {}, (224, 224), None),
        ("pvt_v2_b0", {}, (64, 64), None),
    ],
)
def test_the_tokens_of_timms_networks_are_found(
    name: str, options: dict[str, Any], size: tuple[int, int], expected: TokenLayout | None
) -> None:
    timm = pytest.importorskip("timm")
    module = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    assert find_tokens(module, (3, *size)) == expected


class Listed(nn.Module):
    """The last stage is in a ModuleList, which is not called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.drop = nn.Dropout2d()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.drop(self.stem(inputs))
        for block in self.blocks:
            features = features + block(features)
        return self.head(features.mean((2, 3)))


def test_a_list_of_modules_makes_its_entries_no_deeper() -> None:
    assert propose_layers(TOY_SPECS["cnn"], Listed().eval()) == ("blocks.1",)


class EndsInTokens(nn.Module):
    """Two stages of feature maps and one block of tokens, as EfficientFormer."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.embed, self.norm, self.mix = nn.Conv2d(12, 16, 3, 2, 1), nn.LayerNorm(16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(self.stage2(self.stage1(inputs))).flatten(2).transpose(1, 2)
        return self.head((tokens + self.mix(self.norm(tokens))).mean(1))


def test_where_blocks_of_tokens_are_few_maps_before_them_are_proposed() -> None:
    spec = replace(TOY_SPECS["cnn"], name="ends in tokens", tokens=TokenLayout(prefix=0, grid=(4, 4)))
    assert propose_layers(spec, EndsInTokens().eval()) == ("stage1", "stage2", "norm")
