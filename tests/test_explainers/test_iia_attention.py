"""IIA for transformers: a literal twin, timm, the reference numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cam_reference import assert_close
from iia_reference import reference_maps
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.explainers.iia.attention import AttentionIIA, normalised_row
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0, 3])


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class TestTransformers:
    def test_literal_twin(self, toy_classifier: Make) -> None:
        """One image and one pair of steps at a time, with attention computed in the open."""
        classifier = toy_classifier("vit")
        found = AttentionIIA(classifier, steps=2)(images(2), TARGETS[:2])
        for index, target in enumerate(TARGETS[:2].tolist()):
            expected = literal_attention_map(classifier, images()[[index]], target, 2)
            assert_close(found[index], expected.view(4, 4))

    def test_rows_by_hand(self) -> None:
        maps = torch.rand(3, 2, 5, 5)
        product = torch.eye(5).expand(2, 5, 5)
        for weights in maps:
            step = torch.eye(5) + weights
            product = (step / step.sum(-1, keepdim=True)) @ product
        torch.testing.assert_close(normalised_row(maps), product[:, 0])

    def test_half_precision_changes_nothing(self, toy_classifier: Make) -> None:
        explainer = AttentionIIA(toy_classifier("vit"))
        exact = explainer(images(), TARGETS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(explainer(images(), TARGETS), exact)

    def test_timm(self) -> None:
        timm = pytest.importorskip("timm")
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        net = timm.models.VisionTransformer(**sizes, num_classes=5)
        spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple("abcde"), tokens=TokenLayout(1, (4, 4)))
        nn.init.normal_(net.head.weight)
        maps = AttentionIIA(FrozenClassifier(spec, net, ["blocks.1.norm1"]))(images(), TARGETS)
        assert maps.shape == (5, 4, 4) and maps.std((1, 2)).min() > 0

    def test_without_a_class_token(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        with pytest.raises(InputError, match=r"expected a transformer whose class token is classified, .*got ToyCNN"):
            AttentionIIA(classifier)


def literal_attention_map(classifier: FrozenClassifier, image: Tensor, target: int, number: int) -> Tensor:
    net: Any = classifier.module

    def run(tokens: Tensor, last: Tensor | None) -> tuple[list[Tensor], Tensor]:
        attentions = []
        for block in net.encoder.layers:
            part, normed = block.self_attention, block.ln_1(tokens)
            weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
            split = [
                (normed @ weight.T + bias).unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
                for weight, bias in zip(weights, biases, strict=True)
            ]
            attention = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
            if last is not None and block is net.encoder.layers[-1]:
                attention = last.detach()
            attention = attention if attention.requires_grad else attention.requires_grad_()
            attentions.append(attention)
            tokens = tokens + part.out_proj((attention @ split[2]).transpose(1, 2).flatten(2))
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return attentions, net.heads(net.encoder.ln(tokens)[:, 0])

    sums = torch.zeros(3, 17, 17)
    for i in range(number + 1):
        patches = net._process_input(i / number * classifier.normalise(image))
        tokens = torch.cat([net.class_token, patches], 1) + net.encoder.pos_embedding
        final = run(tokens, None)[0][-1]
        for j in range(number + 1):
            attentions, logits = run(tokens, j / number * final)
            gradients = torch.autograd.grad(logits[0, target], attentions)
            for block, (attention, slope) in enumerate(zip(attentions, gradients, strict=True)):
                sums[block] += (attention * slope).clamp(min=0).mean(1)[0].detach()
    product = torch.eye(17)
    for weights in sums / (number + 1) ** 2:
        step = torch.eye(17) + weights
        product = step / step.sum(-1, keepdim=True) @ product
    return product[0, 1:]


# The reference numbers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, Any]:
    return torch.load(shared_dir / "reference" / "iia.pt", weights_only=True)


@pytest.mark.shared
@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f64", 1e-6)])
def test_reference_attention(reference: dict[str, Any], precision: str, tolerance: float) -> None:
    expected = reference["vit"][precision]["iia_map"]
    assert_close(reference_maps(AttentionIIA, reference["vit"], precision), expected, tolerance)
