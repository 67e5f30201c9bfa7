from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tame.classifier.probing.layer_table import LayerInfo, layer_table
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

NORM = "encoder.layers.encoder_layer_2.ln_1"


def test_layers_come_in_the_order_of_execution_with_what_they_give() -> None:
    found = layer_table(TOY_SPECS["cnn"], ToyCNN().eval())
    assert [layer.name for layer in found.layers if "." not in layer.name] == [
        "stage1",
        "stage2",
        "stage3",
        "dropout",
        "head",
    ]
    rows = {layer.name: layer for layer in found.layers}
    assert rows["stage2"] == LayerInfo("stage2", "Sequential", (12, 8, 8), True, True, True, False)
    assert rows["stage3"].cam and not rows["stage2"].cam
    assert rows["stage2.0"] == LayerInfo("stage2.0", "Conv2d", (12, 8, 8), True, True, False, False)
    assert rows["head"] == LayerInfo("head", "Linear", (5,), False, False, False, False)
    assert (found.proposed, found.traced, found.refusal) == (("stage1", "stage2", "stage3"), True, "")


def test_tokens_that_no_longer_reach_the_logits_cannot_be_feature_layers() -> None:
    spec = TOY_SPECS["vit"]
    rows = {layer.name: layer for layer in layer_table(spec, spec.build().eval()).layers}
    assert rows[NORM] == LayerInfo(NORM, "LayerNorm", (17, 16), True, True, True, True)
    last = rows["encoder.layers.encoder_layer_2"]
    assert (last.shape, last.reaches, last.possible) == ((17, 16), False, False)
    attention = rows["encoder.layers.encoder_layer_2.self_attention"]
    assert (attention.shape, attention.reaches, attention.possible) == (None, False, False)  # it returns a tuple


def test_the_table_shows_maps_as_deep_as_the_proposal_and_the_proposal() -> None:
    found = layer_table(TOY_SPECS["cnn"], ToyCNN().eval())
    assert str(found).splitlines() == [
        "toy_cnn: 5 classes, input 3 x 32 x 32, layers are read from the traced graph",
        "",
        "layer   type        output       reaches logits  feature layer",
        "stage1  Sequential  8 x 16 x 16  yes             proposed",
        "stage2  Sequential  12 x 8 x 8   yes             proposed",
        "stage3  Sequential  16 x 4 x 4   yes             proposed, CAM",
        "",
        "11 more layers (nested deeper, or without maps or tokens) are listed with the option all",
        "proposed feature layers: stage1,stage2,stage3",
    ]
    everything = str(replace(found, show_all=True))
    assert all(f"\n{layer.name} " in everything for layer in found.layers)
    assert "more layers" not in everything


def test_the_table_of_a_transformer_names_its_tokens() -> None:
    spec = TOY_SPECS["vit"]
    text = str(layer_table(spec, spec.build().eval()))
    assert "\ntokens: 1 prefix, then a grid of 4 x 4 patches\n" in text
    assert "\nencoder.layers.encoder_layer_2.self_attention" not in text  # no tensor
    assert text.endswith(f"proposed feature layers: {','.join(spec.layers['proposed'])}")


class Choosing(ToyCNN):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if inputs.sum() > 0 else inputs * 1)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs.mean((2, 3)))


def test_a_network_that_cannot_be_traced_is_shown_too() -> None:
    found = layer_table(TOY_SPECS["cnn"], Choosing().eval())
    assert not found.traced and "layers are read with forward hooks" in str(found)
    assert found.proposed == ("stage1", "stage2", "stage3")


def test_a_network_without_maps_is_shown_with_the_reason() -> None:
    found = layer_table(replace(TOY_SPECS["cnn"], name="flat", cam_layer=""), Flat().eval())
    assert [layer.name for layer in found.layers] == ["head"] and found.proposed == ()
    assert str(found).endswith("no feature layers found in flat; choose them by module name (layers)")


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected logits of shape \(B, 5\) from toy_cnn"):
        layer_table(TOY_SPECS["cnn"], ToyCNN(6).eval())


def test_listing_layers_leaves_no_trace() -> None:
    module = ToyCNN().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    layer_table(TOY_SPECS["cnn"], module)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
