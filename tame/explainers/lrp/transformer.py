"""Transformer LRP: relevance of the attention, weighted by its gradient, propagated through the blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.blocks.families import class_token_grid, open_transformer
from tame.classifier.blocks.transformer import class_token_row, exact_graph
from tame.explainers.base import CheckedExplainer
from tame.explainers.lrp.rules import TRANSFORMER_LRP, RelevanceRules
from tame.explainers.lrp.walk import block_relevance, head_relevance
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


class TransformerLRP(CheckedExplainer):
    """Transformer LRP: how much of each patch reaches the class token, by relevance and gradient of the attention.

    ``C_l = mean_heads ReLU(dlogit_t/dA_l * R_l)``, ``map = row of the class token of (I + C_L) ... (I + C_s)``,
    with A_l the attention of block l after the softmax, R_l its relevance (layer-wise relevance propagation that
    starts with 1 at logit t), t the target and s the first block that is used. Maps (B, gh, gw) are not negative.

    Costs a forward pass, a backward pass and a relevance pass, together about ten forward passes. Everything is
    computed in the classifier's own precision, also under autocast.

    Two differences from the authors' program: relevance is normalised per image (the original normalises over the
    batch and is correct for single images only), and the final norm keeps the classifier's own epsilon.

    Args:
        classifier: The classifier to explain, a transformer with a class token.
        start_layer: Index s of the first block: 0 as in the paper's figures; the authors' evaluations use 1.
        rules: How each kind of operation distributes relevance.

    Raises:
        InputError: If the classifier is not such a transformer, or has no such block.

    Source: Chefer et al., "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, Sec. 3.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
        >>> layout = TokenLayout(prefix=1, grid=(2, 2))
        >>> spec = BackboneSpec("toy", VisionTransformer, Preprocessing(8, 8), ("cat", "dog"), tokens=layout)
        >>> net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=2)
        >>> explainer = TransformerLRP(FrozenClassifier(spec, net, layers=["encoder.ln"]))
        >>> explainer(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 2, 2])
    """

    def __init__(
        self, classifier: FrozenClassifier, start_layer: int = 0, rules: RelevanceRules = TRANSFORMER_LRP
    ) -> None:
        super().__init__(classifier)
        self.transformer = open_transformer(classifier)
        self.layout = class_token_grid(classifier)
        self.start_layer, self.rules = start_layer, rules
        if not 0 <= start_layer < len(self.transformer.blocks):
            raise InputError(
                f"expected a start layer in 0..{len(self.transformer.blocks) - 1} for {classifier.spec.name}, "
                f"got {start_layer}"
            )

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, gh, gw) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            row = class_token_row(self.weighted_attention(images, targets))
        return row[:, self.layout.prefix :].unflatten(1, self.layout.grid)

    def weighted_attention(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Return C_l (B, n, n) of every block from block s on, the first block first."""
        with exact_graph(images.device):
            inputs = self.classifier.normalise(images.detach().clone())  # inference tensors cannot enter a graph
            seen, gradients = self.transformer.attention_gradients(inputs, targets, self.start_layer)
        weighted = []
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            _, relevance = head_relevance(self.transformer, seen, targets, self.rules)
            blocks = self.transformer.blocks[self.start_layer :]
            for block, block_seen, gradient in reversed(list(zip(blocks, seen.blocks, gradients, strict=True))):
                found = block_relevance(block, block_seen, relevance, self.rules)
                weighted.append((gradient * found.attention).relu().mean(1))
                relevance = found.tokens
        return weighted[::-1]


EXPLAINERS.register("transformer_lrp")(
    Method(
        title="Transformer LRP",
        summary="relevance of the attention, weighted by its gradient, propagated through the blocks",
        cost="1 forward, 1 backward, 1 relevance pass",
        build=TransformerLRP,
        paper="Chefer et al., CVPR 2021",
        transformers_only=True,
    )
)
