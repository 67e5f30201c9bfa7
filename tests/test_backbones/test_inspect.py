from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tame.backbones import BACKBONES, FrozenClassifier
from tame.backbones.inspect import propose_layers
from tame.checks import InputError
from toys import TOY_SPECS, ToyCNN

FAMILIES = {
    "resnet18": (("layer2", "layer3", "layer4"), (128, 256, 512)),
    "mobilenet_v3_small": (("features.3", "features.8", "features"), (24, 48, 576)),
    "densenet121": (("features.denseblock2", "features.denseblock3", "features"), (512, 1024, 1024)),
    "shufflenet_v2_x0_5": (("stage2", "stage3", "conv5"), (48, 96, 1024)),
    "efficientnet_b0": (("features.3", "features.5", "features"), (40, 112, 1280)),
    "squeezenet1_0": (("features.5", "features.10", "features"), (256, 512, 512)),
    "convnext_tiny": (("features.3", "features.5", "features"), (192, 384, 768)),  # channels last inside its blocks
    "vit_b_32": (tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in (9, 10, 11)), (768, 768, 768)),
}


@pytest.fixture
def fast_initialisation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Truncated normal values take a second to draw; plain ones do for a proposal."""
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda tensor, *_args, std=1.0, **_kwargs: nn.init.normal_(tensor, std=std)
    )
    return


@pytest.mark.usefixtures("fast_initialisation")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_proposal_taps_the_deepest_stages_of_every_family(name: str) -> None:
    spec = BACKBONES.get(name)
    module = spec.build().eval()
    layers = propose_layers(spec, module)
    assert (layers, FrozenClassifier(spec, module, layers).channels) == FAMILIES[name]


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
    with pytest.raises(InputError, match="no feature layer found in flat; name some with --layers"):
        propose_layers(spec, Flat().eval())
