"""Generic attention explainability: a literal twin with torchvision's own attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.explainers.attention_flow import GenericAttention

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])


def literal(classifier: FrozenClassifier, image: Tensor, target: int) -> Tensor:
    """One image, by torchvision's modules, the relevance matrix formed as in the paper."""
    net, maps = classifier.module, []
    patches = net._process_input(classifier.normalise(image[None]))
    tokens = torch.cat([net.class_token, patches], 1) + net.encoder.pos_embedding
    tokens.requires_grad_()
    for block in net.encoder.layers:
        normed = block.ln_1(tokens)
        attention = block.self_attention
        _, weights = attention(normed, normed, normed, need_weights=True, average_attn_weights=False)
        maps.append(weights)
        _, _, values = nn.functional.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        heads = [weights[:, head] @ values[..., 8 * head : 8 * head + 8] for head in range(2)]
        tokens = tokens + attention.out_proj(torch.cat(heads, -1))
        tokens = tokens + block.mlp(block.ln_2(tokens))
    logits = net.heads(net.encoder.ln(tokens)[:, 0])
    gradients = torch.autograd.grad(logits[0, target], maps)
    relevance = torch.eye(17, dtype=image.dtype)
    for weights, gradient in zip(maps, gradients, strict=True):
        relevance = relevance + (gradient * weights).clamp(min=0)[0].mean(0) @ relevance
    return relevance[0, 1:].view(4, 4).detach()


def test_literal_twin(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit").double()
    images = toy_images.double()
    maps = GenericAttention(classifier)(images, TARGETS)
    for index in range(4):
        torch.testing.assert_close(maps[index], literal(classifier, images[index], int(TARGETS[index])))


def test_maps_are_not_negative_and_depend_on_the_class(toy_classifier: Make, toy_images: Tensor) -> None:
    explainer = GenericAttention(toy_classifier("vit"))
    maps = explainer(toy_images, TARGETS)
    assert maps.shape == (4, 4, 4) and maps.min() >= 0 and maps.max() > 0
    assert not torch.allclose(maps, explainer(toy_images, TARGETS.flip(0)), rtol=0.1)
