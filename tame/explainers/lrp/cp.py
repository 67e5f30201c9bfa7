"""CP-LRP: gradient times input, with attention, norms and activations treated as constants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.classifier.blocks.families import open_transformer
from tame.classifier.blocks.transformer import ForwardRules, exact_graph
from tame.classifier.target_logits import target_logits
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method


def norm_with_constant_deviation(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    """Return the LayerNorm of ``values`` (..., D), with a standard deviation that is constant for the gradient."""
    centred = values - values.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
    scaled = centred / deviation
    if norm.weight is not None:
        scaled = scaled * norm.weight
    return scaled if norm.bias is None else scaled + norm.bias


def activation_as_gain(activation: nn.Module, values: Tensor) -> Tensor:
    """Return ``u * (f(u) / (u + 1e-10))`` for ``values`` u; the gain in brackets is constant for the gradient."""
    return values * (activation(values) / (values + 1e-10)).detach()


CP_LRP = ForwardRules(
    norm=norm_with_constant_deviation,
    activation=activation_as_gain,
    scores=torch.Tensor.detach,  # relevance flows through the values only
)


class CPLRP(CheckedExplainer):
    """CP-LRP: what each pixel contributes to the logit of the network made linear around the image.

    ``map = ReLU(sum_c x_c * d logit_t / dx_c)``, x the normalised image and the derivative that of a network with
    the same values in which attention, standard deviations of norms and gains f(u) / u of activations are
    constants. The sum over channels is signed; the ReLU after it is left out with ``signed``. Maps have the size of the
    image, (B, H, W), and are noisy.

    Costs one forward and one backward pass.

    Args:
        classifier: The classifier to explain, a transformer with a class token.
        signed: Keep negative evidence (no ReLU).

    Raises:
        InputError: If the classifier is not such a transformer.

    Source: Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022;
    as the baseline in Achtibat et al., "AttnLRP", ICML 2024, whose gain for activations is used.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
        >>> layout = TokenLayout(prefix=1, grid=(2, 2))
        >>> spec = BackboneSpec("toy", VisionTransformer, Preprocessing(8, 8), ("cat", "dog"), tokens=layout)
        >>> net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=2)
        >>> explainer = CPLRP(FrozenClassifier(spec, net, layers=["encoder.ln"]))
        >>> explainer(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, classifier: FrozenClassifier, signed: bool = False) -> None:
        super().__init__(classifier)
        self.transformer = open_transformer(classifier)
        self.signed = signed

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, H, W) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        with exact_graph(images.device):
            inputs = self.classifier.normalise(images.detach().clone()).requires_grad_()
            seen = self.transformer.run(self.transformer.embed(inputs), CP_LRP)
            (gradient,) = torch.autograd.grad(target_logits(seen.logits, targets).sum(), inputs)
            maps = (inputs.detach() * gradient).sum(1)
        return maps if self.signed else maps.relu()


EXPLAINERS.register("cp_lrp")(
    Method(
        title="CP-LRP",
        summary="gradient times input, with attention, norms and activations held constant",
        cost="1 forward, 1 backward",
        build=CPLRP,
        paper="Ali et al., ICML 2022",
        transformers_only=True,
    )
)
