"""Opening transformers: torchvision's and timm's give the same answers, others are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.classifier.blocks.families import open_transformer
from tame.explainers import EXPLAINERS, build_explainer
from tame.explainers.lrp.transformer import TransformerLRP
from tame.utils.checks import InputError
from toys import TOY_SPECS

TRANSFORMERS_ONLY = [name for name in EXPLAINERS if EXPLAINERS.get(name).transformers_only]
Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])
NAMES = {  # torchvision's: timm's
    "class_token": "cls_token",
    "conv_proj": "patch_embed.proj",
    "encoder.pos_embedding": "pos_embed",
    "encoder.layers.encoder_layer_": "blocks.",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj": "attn.proj",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
}


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        for old, new in names.items():
            key = re.sub(rf"(^|\.){re.escape(old)}", rf"\g<1>{new}", key)
        found[key] = value
    return found


def timm_toy(state: Mapping[str, Tensor] | None = None, layout: TokenLayout | None = None, **options: Any) -> Any:
    """Return the twin of the toy transformer, frozen, with the weights ``state`` in torchvision's names."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    given = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2}
    module = timm.VisionTransformer(**{**given, "num_classes": 5, **options})
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 1e-6
    if state is not None:
        module.load_state_dict(renamed(state, NAMES))
    spec = replace(TOY_SPECS["vit"], name="timm_toy", layer_aliases={}, tokens=layout or TOY_SPECS["vit"].tokens)
    return FrozenClassifier(spec, module, ["blocks.2.norm1"])


def test_the_opened_network_gives_the_same_logits(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit")
    transformer = open_transformer(classifier)
    seen = transformer.run(transformer.embed(classifier.normalise(toy_images)))
    torch.testing.assert_close(seen.logits, classifier.logits(toy_images), rtol=1e-4, atol=1e-5)
    assert len(seen.blocks) == 3 and seen.blocks[0].attention.shape == (4, 2, 17, 17)
    own = classifier.module.encoder.layers[0].self_attention
    _, expected = own(*[seen.blocks[0].normed] * 3, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(seen.blocks[0].attention, expected)
    assert transformer.blocks[0].qkv_weight is own.in_proj_weight  # nothing is copied


def test_a_block_with_its_own_attention_gives_its_own_output(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit")
    transformer = open_transformer(classifier)
    block = transformer.blocks[1]
    seen = block.run(transformer.embed(classifier.normalise(toy_images)))
    torch.testing.assert_close(block.run_with_attention(seen.tokens, seen.attention), seen.output)
    uniform = torch.full_like(seen.attention, 1 / 17)
    middle = seen.tokens + block.out(seen.values.mean(2).flatten(1).unsqueeze(1))
    expected = middle + block.fc2(block.activation(block.fc1(block.norm2(middle))))
    torch.testing.assert_close(block.run_with_attention(seen.tokens, uniform), expected)


@pytest.mark.parametrize("method", TRANSFORMERS_ONLY)
def test_both_libraries_give_the_same_maps(toy_classifier: Make, toy_images: Tensor, method: str) -> None:
    ours = toy_classifier("vit")
    theirs = timm_toy(ours.module.state_dict())
    torch.testing.assert_close(theirs.logits(toy_images), ours.logits(toy_images), rtol=1e-4, atol=1e-5)
    expected = build_explainer(ours, method)(toy_images, TARGETS)
    found = build_explainer(theirs, method)(toy_images, TARGETS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("method", TRANSFORMERS_ONLY)
def test_register_tokens_are_no_patches(toy_images: Tensor, method: str) -> None:
    classifier = timm_toy(layout=TokenLayout(prefix=3, grid=(4, 4)), reg_tokens=2, qkv_bias=False)
    maps = build_explainer(classifier, method)(toy_images, TARGETS)
    assert maps.shape == ((4, 32, 32) if method == "cp_lrp" else (4, 4, 4))


@pytest.mark.parametrize("method", TRANSFORMERS_ONLY)
def test_other_networks_are_refused(toy_classifier: Make, method: str) -> None:
    assert method in EXPLAINERS
    with pytest.raises(InputError, match=r"expected a transformer whose class token .* got ToyCNN \(toy_cnn\)"):
        build_explainer(toy_classifier(), method)


def test_a_layout_that_does_not_fit_is_refused(toy_classifier: Make) -> None:
    classifier = toy_classifier("vit")
    classifier.spec = replace(classifier.spec, tokens=None)
    with pytest.raises(InputError, match=r"got VisionTransformer \(toy_vit\) with no token layout"):
        TransformerLRP(classifier)
    classifier.spec = replace(classifier.spec, tokens=TokenLayout(prefix=0, grid=(4, 4)))
    with pytest.raises(InputError, match="with a token layout without a prefix token"):
        TransformerLRP(classifier)
    classifier.spec = replace(classifier.spec, tokens=TokenLayout(prefix=2, grid=(4, 4)))
    with pytest.raises(InputError, match="expected 18 tokens in toy_vit, got 17"):
        TransformerLRP(classifier)


def test_a_head_of_several_layers_is_refused() -> None:
    module = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5, representation_size=8)
    with pytest.raises(InputError, match="got toy_vit with a head of 3 layers"):
        open_transformer(FrozenClassifier(TOY_SPECS["vit"], module, ["encoder.ln"]))


def test_another_norm_is_refused() -> None:
    module = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5, norm_layer=nn.RMSNorm)
    with pytest.raises(InputError, match="got toy_vit with RMSNorm in the place of a LayerNorm"):
        open_transformer(FrozenClassifier(TOY_SPECS["vit"], module, ["encoder.ln"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_pool": "avg"}, "with pooling 'avg' before the head"),
        ({"init_values": 0.1}, "with LayerScale in its blocks"),
        ({"qk_norm": True}, "with LayerNorm in its blocks"),
    ],
)
def test_variants_of_timm_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_transformer(timm_toy(**options))


def test_another_block_of_timm_is_refused() -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    with pytest.raises(InputError, match="with blocks of ResPostBlock"):
        open_transformer(timm_toy(block_fn=timm.ResPostBlock))


def test_an_overlooked_operation_is_found() -> None:
    class Scaled(VisionTransformer):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * 2

    module = Scaled(32, 8, 3, 2, 16, 32, num_classes=5)
    nn.init.normal_(module.heads.head.weight)
    with pytest.raises(InputError, match="got toy_vit, whose logits differ by .* when its operations are run"):
        open_transformer(FrozenClassifier(TOY_SPECS["vit"], module, ["encoder.ln"]))


@pytest.mark.shared
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_authors_baseline(shared_dir: Path, library: str) -> None:
    """The stored maps are float32, and this network is at its mercy: noise of 6e-8 on the image moves its float32
    maps by 1.6 % of the maximum (median of 30 draws, largest 85 %). Ours are float64 here."""
    path = shared_dir / "reference" / "authors_program" / "baseline_vit_lrp.pt"
    reference = torch.load(path, weights_only=True)
    state, layout = reference["state_dict"], TokenLayout(prefix=1, grid=(14, 14))
    if library == "timm":
        timm = pytest.importorskip("timm.models.vision_transformer")
        module = timm.VisionTransformer(embed_dim=24, depth=3, num_heads=2, mlp_ratio=2, num_classes=10)
        module.load_state_dict(state)
        norms, final = [norm for block in module.blocks for norm in (block.norm1, block.norm2)], module.norm
    else:
        module = VisionTransformer(224, 16, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=10)
        back = {new: old for old, new in NAMES.items() if new != "norm"}  # the final one, last, at the start only
        module.load_state_dict(renamed(renamed(state, back), {"norm.": "encoder.ln."}))
        norms, final = [norm for block in module.encoder.layers for norm in (block.ln_1, block.ln_2)], module.encoder.ln
    for norm in norms:
        norm.eps = 1e-6
    final.eps = 1e-5
    spec = BackboneSpec("baseline", nn.Identity, Preprocessing(224, 224), tuple(map(str, range(10))), tokens=layout)
    classifier = FrozenClassifier(spec, module, ["encoder.ln" if library == "torchvision" else "norm"]).double()
    given = reference["image"].double() * classifier.std + classifier.mean
    torch.testing.assert_close(classifier.logits(given), reference["logits"].double(), rtol=0, atol=1e-5)
    for target, wanted in (
        (int(reference["logits"].argmax()), reference["attribution_index_None"]),
        (3, reference["attribution_index_3"]),
    ):
        (found,) = TransformerLRP(classifier).explain(given, torch.tensor([target]))
        assert float((found - wanted).abs().max() / wanted.max()) < 0.05
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten().double()]))[0, 1] > 0.9999
