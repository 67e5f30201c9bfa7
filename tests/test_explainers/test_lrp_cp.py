"""CP-LRP: its rules keep the values, the reference numbers, sign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.explainers import build_explainer
from tame.explainers.lrp.cp import CP_LRP, CPLRP, activation_as_gain, norm_with_constant_deviation

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0])


@pytest.mark.parametrize("affine", [True, False])
def test_norm_keeps_values_and_holds_the_deviation(affine: bool) -> None:
    norm = nn.LayerNorm(4, elementwise_affine=affine).double()
    values = torch.randn(3, 4).double().requires_grad_()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    found = norm_with_constant_deviation(norm, values)
    torch.testing.assert_close(found, norm(values))
    (gradient,) = torch.autograd.grad(found[0, 1], values)
    deviation = float((values[0].detach().var(unbiased=False) + norm.eps).sqrt())
    gain = float(norm.weight.detach()[1]) if affine else 1.0
    expected = torch.tensor([-0.25, 0.75, -0.25, -0.25]).double() * gain / deviation
    torch.testing.assert_close(gradient[0], expected)
    assert gradient[1:].eq(0).all()


def test_activation_keeps_values_and_holds_the_gain() -> None:
    values = torch.tensor([-2.0, 0.5, 3.0]).double().requires_grad_()
    found = activation_as_gain(nn.GELU(), values)
    torch.testing.assert_close(found, nn.functional.gelu(values))
    (gradient,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(gradient, (nn.functional.gelu(values) / values).detach())


def test_the_network_keeps_its_answer(toy_classifier: Make, toy_images: Tensor) -> None:
    classifier = toy_classifier("vit")
    transformer = CPLRP(classifier).transformer
    seen = transformer.run(transformer.embed(classifier.normalise(toy_images)), CP_LRP)
    torch.testing.assert_close(seen.logits, classifier.logits(toy_images), rtol=1e-4, atol=1e-5)
    assert not any(block.attention.requires_grad for block in seen.blocks)


def test_sign(toy_classifier: Make, toy_images: Tensor) -> None:
    """The registered method cuts off what is negative, after the sum over channels."""
    classifier = toy_classifier("vit")
    signed = CPLRP(classifier, signed=True)(toy_images, TARGETS)
    assert signed.shape == (4, 32, 32) and signed.min() < 0
    assert torch.equal(build_explainer(classifier, "cp_lrp")(toy_images, TARGETS), signed.relu())


def test_attention_gets_no_relevance(toy_classifier: Make, toy_images: Tensor) -> None:
    """With values that ignore their input only the class token's own constant way is left: no pixel matters."""
    classifier = toy_classifier("vit")
    for block in classifier.module.encoder.layers:
        block.self_attention.in_proj_weight[32:] = 0  # the rows of the values; queries and keys stay
    maps = CPLRP(classifier, signed=True)(toy_images, TARGETS)
    assert maps.eq(0).all()


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f64", torch.float64)])
def test_reference_numbers(shared_dir: Path, kind: str, dtype: torch.dtype) -> None:
    reference = torch.load(shared_dir / "reference" / "attnlrp_extra.pt", weights_only=True)
    module = VisionTransformer(**reference["vit_config"])
    module.load_state_dict(reference["state_dict"])
    layout = TokenLayout(prefix=1, grid=(4, 4))
    spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple(map(str, range(10))), tokens=layout)
    classifier = FrozenClassifier(spec, module, ["encoder.ln"]).to(dtype)
    given = reference["input"].to(dtype) * classifier.std + classifier.mean  # the stored input is normalised
    wanted = reference["maps"][f"plain_{kind}"]
    maps = CPLRP(classifier, signed=True).explain(given, reference["targets"])
    tolerance = 1e-8 if kind == "f64" else 1e-5
    torch.testing.assert_close(maps, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
