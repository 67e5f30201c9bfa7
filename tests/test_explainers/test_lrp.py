"""Transformer LRP: the reference numbers, conservation, batches, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.classifier.blocks.transformer import exact_graph
from tame.explainers.lrp.rules import TRANSFORMER_LRP
from tame.explainers.lrp.transformer import TransformerLRP
from tame.explainers.lrp.walk import BlockRelevance, block_relevance, head_relevance
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])


def checkpoints(explainer: TransformerLRP, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, list[Any]]:
    """Return relevance behind the head and the selection, and (pass, gradient, relevance) of each block."""
    transformer, rules = explainer.transformer, explainer.rules
    with exact_graph(images.device):
        seen, gradients = transformer.attention_gradients(explainer.classifier.normalise(images), targets)
    chosen, tokens = head_relevance(transformer, seen, targets, rules)
    relevance, blocks = tokens, []
    for block, block_seen, gradient in reversed(list(zip(transformer.blocks, seen.blocks, gradients, strict=True))):
        found = block_relevance(block, block_seen, relevance, rules)
        blocks.append((block_seen, gradient, found))
        relevance = found.tokens
    return chosen, tokens, blocks[::-1]


def test_total_relevance_is_one_everywhere(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit").double()
    for value in classifier.module.parameters():
        nn.init.normal_(value)  # new biases and positions are zero: too small for the stabiliser
    chosen, tokens, blocks = checkpoints(TransformerLRP(classifier), toy_images.double(), TARGETS)
    found: list[BlockRelevance] = [found for _, _, found in blocks]
    places = [(chosen,), (tokens,)]
    for at in found:
        places += [(at.output,), (at.middle_skip, at.mlp), (at.middle_skip, at.middle_normed), (at.skip, at.attended)]
        places += [(at.skip, at.mixed), (at.skip, at.attention, at.values), (at.skip, at.normed), (at.tokens,)]
    for place in places:
        total = sum(part.flatten(1).sum(1) for part in place)
        torch.testing.assert_close(total, torch.ones(4).double(), rtol=0, atol=1e-5)


def test_batch_equals_one_by_one(toy_classifier: Make, toy_images: Tensor) -> None:
    explainer = TransformerLRP(toy_classifier("vit"))
    whole = explainer(toy_images, TARGETS)
    for index in range(4):
        alone = explainer(toy_images[[index]], TARGETS[[index]])[0]
        torch.testing.assert_close(alone, whole[index], rtol=0, atol=1e-5 * float(alone.max()))


def test_the_class_matters(toy_classifier: Make, toy_images: Tensor) -> None:
    explainer = TransformerLRP(toy_classifier("vit"))
    assert not torch.allclose(explainer(toy_images, TARGETS), explainer(toy_images, TARGETS.flip(0)), rtol=0.1)


def test_later_start_leaves_the_first_blocks_out(toy_classifier: Make, toy_images: Tensor) -> None:
    """Their weighted attention is the same; the map is the product over fewer blocks."""
    classifier = toy_classifier("vit")
    every = TransformerLRP(classifier).weighted_attention(toy_images, TARGETS)
    last = TransformerLRP(classifier, start_layer=2).weighted_attention(toy_images, TARGETS)
    assert (len(every), len(last)) == (3, 1)
    torch.testing.assert_close(last[0], every[2])
    found = TransformerLRP(classifier, start_layer=2)(toy_images, TARGETS)
    torch.testing.assert_close(found, every[2][:, 0, 1:].view(4, 4, 4))
    with pytest.raises(InputError, match=r"expected a start layer in 0\.\.2 for toy_vit, got 3"):
        TransformerLRP(classifier, start_layer=3)


def test_other_rules(toy_classifier: Make, toy_images: Tensor) -> None:
    """A rule that stops relevance at activations leaves less to every block but the last."""
    classifier = toy_classifier("vit")
    own = TransformerLRP(classifier).weighted_attention(toy_images, TARGETS)
    rules = replace(TRANSFORMER_LRP, activation=torch.zeros_like)
    other = TransformerLRP(classifier, rules=rules).weighted_attention(toy_images, TARGETS)
    assert all(not torch.allclose(a, b) for a, b in zip(own, other, strict=True))


def test_autocast_does_not_matter(toy_classifier: Make, toy_images: Tensor) -> None:
    explainer = TransformerLRP(toy_classifier("vit"))
    expected = explainer(toy_images, TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explainer(toy_images, TARGETS), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_are_back_after_an_exception(toy_classifier: Make, toy_images: Tensor, mode: type[torch.no_grad]) -> None:
    explainer = TransformerLRP(toy_classifier("vit"))
    with mode(), torch.autocast("cpu"):
        with pytest.raises(RuntimeError):
            explainer.explain(toy_images, TARGETS + 5)
        assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
    assert all(value.grad is None and not value.requires_grad for value in explainer.classifier.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in explainer.classifier.module.modules())


# The reference numbers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, Any]:
    return torch.load(shared_dir / "reference" / "transformer_lrp.pt", weights_only=True)


def tiny(reference: dict[str, Any], dtype: torch.dtype) -> tuple[FrozenClassifier, Tensor]:
    """Return the classifier of the reference and its images, not normalised."""
    module = VisionTransformer(**reference["vit_config"])
    module.load_state_dict(reference["state_dict"])
    layout = TokenLayout(prefix=1, grid=(4, 4))
    spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple(map(str, range(10))), tokens=layout)
    classifier = FrozenClassifier(spec, module, ["encoder.ln"]).to(dtype)
    return classifier, reference["input"].to(dtype) * classifier.std + classifier.mean


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f64", torch.float64)])
@pytest.mark.parametrize(
    ("name", "start"), [("relevance", 0), ("relevance_start_layer_1", 1), ("relevance_default_index", 0)]
)
def test_reference_maps(reference: dict[str, Any], kind: str, dtype: torch.dtype, name: str, start: int) -> None:
    classifier, given = tiny(reference, dtype)
    targets = reference["argmax" if name == "relevance_default_index" else "targets"]
    maps = TransformerLRP(classifier, start).explain(given, targets)  # unchecked: the images leave [0, 1] a little
    wanted = reference[kind][name].view(2, 4, 4)
    if kind == "f64":
        torch.testing.assert_close(maps, wanted, rtol=1e-6, atol=0)
    else:
        close(maps, wanted, 1e-4)


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f64", torch.float64)])
def test_reference_checkpoints(reference: dict[str, Any], kind: str, dtype: torch.dtype) -> None:
    classifier, given = tiny(reference, dtype)
    wanted = reference[kind]
    chosen, tokens, blocks = checkpoints(TransformerLRP(classifier), given, reference["targets"])
    tolerance = 1e-6 if kind == "f64" else 2e-3
    close(chosen, wanted["relevance_after_head"], tolerance)
    close(tokens, wanted["relevance_after_pool"], tolerance)
    for layer, (seen, gradient, found) in enumerate(blocks):
        values = {
            "attn": seen.attention,
            "attn_grad": gradient,
            "weighted_attention": (gradient * found.attention).relu().mean(1),
            "attn_relevance": found.attention,
            "value_relevance": found.values,
            "relevance_block_in": found.output,
            "relevance_add2_skip": found.middle_skip,
            "relevance_add2_branch": found.mlp,
            "relevance_mlp_in": found.middle_normed,
            "relevance_add1_skip": found.skip,
            "relevance_add1_branch": found.attended,
            "relevance_attn_proj_in": found.mixed,
            "relevance_attn_in": found.normed,
            "relevance_block_out": found.tokens,
        }
        for name, value in values.items():
            close(value, wanted[name][:, layer], tolerance)
