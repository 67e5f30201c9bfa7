"""IIA for transformers: gradients times attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.blocks.families import class_token_grid, open_transformer
from tame.classifier.blocks.transformer import exact_graph
from tame.classifier.target_logits import target_logits
from tame.explainers.base import CheckedExplainer
from tame.explainers.iia.steps import check_steps, image_steps, steps_to_one


class AttentionIIA(CheckedExplainer):
    """IIA for transformers with a class token: gradients times attention along two paths.

    ``M_l = mean_ij mean_heads ReLU(A_l * d logit_t / dA_l)`` for every block l, with A_l the attention after the
    softmax for the image ``x0 + i / n (x - x0)``, x0 the mean colour (zero after normalisation), and the last block's
    attention replaced by the constant ``j / n A_L``, i and j = 0 ... n. ``W_l = I + M_l`` with rows divided by their
    sums; the map is the class token's row of ``W_L ... W_1``, patches only, (B, gh, gw), not negative. This is what
    the authors' program computes; it has no triple integral for transformers.

    Costs n + 1 forward passes, and (n + 1)^2 backward passes and forward passes of the last block, in the classifier's
    own precision, also under autocast.

    Args:
        classifier: The classifier to explain.
        steps: Number n of steps of both paths.
        batch_size: Interpolated images per pass; it changes the maps by rounding only.

    Raises:
        InputError: If the classifier is not such a transformer, or for less than one step or one image per pass.

    Source: Barkan et al., "Visual Explanations via Iterated Integrated Attributions", ICCV 2023, and the authors'
    program.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
        >>> layout = TokenLayout(prefix=1, grid=(2, 2))
        >>> spec = BackboneSpec("toy", VisionTransformer, Preprocessing(8, 8), ("cat", "dog"), tokens=layout)
        >>> net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=2)
        >>> explainer = AttentionIIA(FrozenClassifier(spec, net, layers=["encoder.ln"]))
        >>> explainer(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 2, 2])
    """

    def __init__(self, classifier: FrozenClassifier, steps: int = 5, batch_size: int = 16) -> None:
        check_steps(steps, batch_size)
        super().__init__(classifier)
        self.steps, self.batch_size = steps, batch_size
        self.transformer = open_transformer(classifier)
        self.layout = class_token_grid(classifier)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, gh, gw) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        with exact_graph(images.device):
            images, targets = images.detach().clone(), targets.clone()  # inference tensors cannot enter a graph
            parts = zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True)
            rows = torch.cat([normalised_row(self._mean_products(*part)) for part in parts])
        return rows[:, self.layout.prefix :].unflatten(1, self.layout.grid)

    def _mean_products(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return M_l of every block, T tokens and at most ``batch_size`` images, (L, b, T, T)."""
        fractions = steps_to_one(self.steps, images)
        tokens = self.layout.prefix + self.layout.grid[0] * self.layout.grid[1]
        sums = images.new_zeros(len(self.transformer.blocks), len(images), tokens, tokens)
        for chunk in fractions.split(max(1, self.batch_size // max(1, len(images)))):
            for products in self._products(image_steps(self.classifier, images, chunk), targets.repeat(len(chunk))):
                sums += products.unflatten(1, (len(chunk), -1)).sum(1)
        return sums / len(fractions) ** 2

    def _products(self, images: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """Yield ``mean_heads ReLU(A_l * d logit_t / dA_l)`` of all blocks, (L, R, T, T), for each step j."""
        *blocks, last = self.transformer.blocks
        tokens = self.transformer.embed(self.classifier.normalise(images)).requires_grad_()
        attentions = []
        for block in blocks:
            seen = block.run(tokens)
            attentions.append(seen.attention)
            tokens = seen.output
        with torch.no_grad():
            final = last.run(tokens).attention
        for fraction in steps_to_one(self.steps, images):
            leaf = (fraction * final).requires_grad_()
            logits = self.transformer.head(self.transformer.norm(last.run_with_attention(tokens, leaf))[:, 0])
            total = target_logits(logits, targets).sum()
            gradients = torch.autograd.grad(total, [*attentions, leaf], retain_graph=True)
            pairs = zip([*attentions, leaf], gradients, strict=True)
            yield torch.stack([(attention * gradient).detach().relu().mean(1) for attention, gradient in pairs])


def normalised_row(maps: Tensor) -> Tensor:
    """Return the class token's row of ``W_L ... W_1``, ``W_l = I + M_l`` with rows divided by their sums.

    Args:
        maps: M_l of all blocks, the first block first, (L, B, n, n).

    Returns:
        (B, n), which sums to 1; the class token's own column comes first.

    Example:
        >>> normalised_row(torch.tensor([[[[0.0, 1.0], [2.0, 1.0]]], [[[0.0, 3.0], [0.0, 0.0]]]]))
        tensor([[0.5000, 0.5000]])
    """
    row = torch.zeros_like(maps[-1][:, :1])  # (B, 1, n)
    row[..., 0] = 1
    for weights in maps.flip(0):
        row = row / (1 + weights.sum(-1)).unsqueeze(1)
        row = row + row @ weights
    return row[:, 0]
