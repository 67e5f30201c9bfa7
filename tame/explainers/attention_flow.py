"""Generic attention explainability: gradients times attention, propagated through the blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.blocks.families import class_token_grid, open_transformer
from tame.classifier.blocks.transformer import class_token_row, exact_graph
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method


class GenericAttention(CheckedExplainer):
    """Generic attention explainability for self-attention encoders: how much of each patch reaches the class token.

    ``A'_l = mean_heads ReLU(d logit_t / dA_l * A_l)``; from ``R = I``, ``R = R + A'_l R`` block after block, and
    the map is the row of the class token, with A_l the attention of block l after the softmax and t the target.
    Maps (B, gh, gw) are not negative. It is `TransformerLRP` with the attention instead of its relevance.

    Costs one forward and one backward pass, in the classifier's own precision, also under autocast.

    Args:
        classifier: The classifier to explain, a transformer with a class token.

    Raises:
        InputError: If the classifier is not such a transformer.

    Source: Chefer et al., "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, Eq. 5 and 6.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
        >>> layout = TokenLayout(prefix=1, grid=(2, 2))
        >>> spec = BackboneSpec("toy", VisionTransformer, Preprocessing(8, 8), ("cat", "dog"), tokens=layout)
        >>> net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=2)
        >>> explainer = GenericAttention(FrozenClassifier(spec, net, layers=["encoder.ln"]))
        >>> explainer(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 2, 2])
    """

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__(classifier)
        self.transformer = open_transformer(classifier)
        self.layout = class_token_grid(classifier)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, gh, gw) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        with exact_graph(images.device):
            inputs = self.classifier.normalise(images.detach().clone())  # inference tensors cannot enter a graph
            seen, gradients = self.transformer.attention_gradients(inputs, targets)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            pairs = zip(seen.blocks, gradients, strict=True)
            row = class_token_row([(gradient * block.attention).relu().mean(1) for block, gradient in pairs])
        return row[:, self.layout.prefix :].unflatten(1, self.layout.grid)


EXPLAINERS.register("chefer_generic")(
    Method(
        title="Generic attention",
        summary="gradients times attention, propagated through the blocks",
        cost="1 forward, 1 backward",
        build=GenericAttention,
        paper="Chefer et al., ICCV 2021",
        transformers_only=True,
    )
)
