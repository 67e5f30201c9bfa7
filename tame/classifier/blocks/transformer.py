"""A transformer as a sequence of operations: the same computation, with every intermediate value returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tame.classifier.target_logits import target_logits


@dataclass(frozen=True)
class ForwardRules:
    """How a forward pass computes each kind of operation; by default as the classifier does.

    Rules that return the same values with another gradient turn the gradient into a relevance (CP-LRP).

    Attributes:
        norm: LayerNorm and its input -> its output.
        activation: Activation and its input u -> its output.
        scores: Input of the attention -> input of queries and keys.
    """

    norm: Callable[[nn.LayerNorm, Tensor], Tensor] = lambda norm, values: norm(values)
    activation: Callable[[nn.Module, Tensor], Tensor] = lambda activation, values: activation(values)
    scores: Callable[[Tensor], Tensor] = lambda values: values


PLAIN = ForwardRules()


class BlockPass(NamedTuple):
    """Intermediate values of a block. B images, n tokens of D values, H heads of d values, M hidden values.

    Attributes:
        tokens: The block's input x (B, n, D).
        normed: norm1(x) (B, n, D).
        queries: (B, H, n, d).
        keys: (B, H, n, d).
        values: (B, H, n, d).
        attention: A = softmax(queries keys^T / sqrt(d)) (B, H, n, n), rows are queries.
        mixed: Heads of A values, side by side (B, n, H * d).
        attended: y = out(mixed) (B, n, D).
        middle: x + y (B, n, D).
        middle_normed: norm2(x + y) (B, n, D).
        hidden: activation(fc1(.)) (B, n, M).
        mlp: m = fc2(hidden) (B, n, D).
        output: x + y + m (B, n, D).
    """

    tokens: Tensor
    normed: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    attention: Tensor
    mixed: Tensor
    attended: Tensor
    middle: Tensor
    middle_normed: Tensor
    hidden: Tensor
    mlp: Tensor
    output: Tensor


@dataclass(frozen=True)
class Block:
    """One encoder block: ``x + out(attention(norm1(x)))``, then the same with ``fc2(activation(fc1(norm2(.))))``.

    Attributes:
        norm1: Before the attention.
        qkv_weight: Rows of all queries, then keys, then values; heads are contiguous in each, (3 * H * d, D).
        qkv_bias: (3 * H * d,), or None.
        heads: Number H of heads.
        out: Output projection of the attention.
        norm2: Before the hidden layer.
        fc1: Into the hidden layer.
        activation: Activation of the hidden layer.
        fc2: Out of the hidden layer.
    """

    norm1: nn.LayerNorm
    qkv_weight: Tensor
    qkv_bias: Tensor | None
    heads: int
    out: nn.Linear
    norm2: nn.LayerNorm
    fc1: nn.Linear
    activation: nn.Module
    fc2: nn.Linear

    def split(self, values: Tensor) -> Tensor:
        """Return (B, n, H * d) as heads (B, H, n, d)."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(self, values: Tensor) -> Tensor:
        """Return heads (B, H, n, d) side by side, (B, n, H * d)."""
        return values.transpose(1, 2).flatten(2)

    def run(self, tokens: Tensor, rules: ForwardRules = PLAIN) -> BlockPass:
        """Run the block on tokens (B, n, D)."""
        third = len(self.qkv_weight) // 3
        weights = self.qkv_weight.split([2 * third, third])
        biases = (None, None) if self.qkv_bias is None else self.qkv_bias.split([2 * third, third])
        normed = rules.norm(self.norm1, tokens)
        projected = F.linear(rules.scores(normed), weights[0], biases[0])
        queries, keys = (self.split(part) for part in projected.chunk(2, -1))
        values = self.split(F.linear(normed, weights[1], biases[1]))
        attention = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1)
        mixed = self.merge(attention @ values)
        attended = self.out(mixed)
        middle = tokens + attended
        middle_normed = rules.norm(self.norm2, middle)
        hidden = rules.activation(self.activation, self.fc1(middle_normed))
        mlp = self.fc2(hidden)
        return BlockPass(
            tokens, normed, queries, keys, values, attention, mixed, attended,
            middle, middle_normed, hidden, mlp, middle + mlp,
        )  # fmt: skip

    def run_with_attention(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """Run the block on tokens (B, n, D) with ``attention`` (B, H, n, n) instead of its own: output (B, n, D)."""
        third = len(self.qkv_weight) // 3
        bias = None if self.qkv_bias is None else self.qkv_bias[-third:]
        values = self.split(F.linear(self.norm1(tokens), self.qkv_weight[-third:], bias))
        middle = tokens + self.out(self.merge(attention @ values))
        return middle + self.fc2(self.activation(self.fc1(self.norm2(middle))))


class EncoderPass(NamedTuple):
    """Intermediate values of the blocks from a start block on, of the final norm and of the head.

    Attributes:
        blocks: Intermediate values per block.
        tokens: z, the final norm of the last block's output (B, n, D).
        logits: head(z of the class token) (B, K).
    """

    blocks: tuple[BlockPass, ...]
    tokens: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Transformer:
    """A transformer that classifies its class token, the first token.

    Attributes:
        embed: Normalised images (B, C, H, W) -> tokens (B, n, D), positions added.
        blocks: The blocks, the first block first.
        norm: Final norm.
        head: Class token -> logits.
    """

    embed: Callable[[Tensor], Tensor]
    blocks: tuple[Block, ...]
    norm: nn.LayerNorm
    head: nn.Linear

    def run(self, tokens: Tensor, rules: ForwardRules = PLAIN, start: int = 0) -> EncoderPass:
        """Run the blocks from ``start`` on, final norm and head on tokens (B, n, D)."""
        passes = []
        for block in self.blocks[start:]:
            passes.append(block.run(tokens, rules))
            tokens = passes[-1].output
        tokens = rules.norm(self.norm, tokens)
        return EncoderPass(tuple(passes), tokens, self.head(tokens[:, 0]))

    def attention_gradients(
        self, inputs: Tensor, targets: Tensor, start: int = 0
    ) -> tuple[EncoderPass, tuple[Tensor, ...]]:
        """Run the network and return ``d logit_t / dA`` of every block from ``start`` on.

        Args:
            inputs: Normalised images (B, C, H, W); call within `exact_graph`.
            targets: Class t of each image, (B,).
            start: First block with a gradient; no activations of the blocks before it are stored.

        Returns:
            The intermediate values, and one gradient (B, H, n, n) per block.
        """
        with torch.no_grad():
            tokens = self.embed(inputs)
            for block in self.blocks[:start]:
                tokens = block.run(tokens).output
        seen = self.run(tokens.requires_grad_(), start=start)
        total = target_logits(seen.logits, targets).sum()
        return seen, torch.autograd.grad(total, [block.attention for block in seen.blocks])


@contextmanager
def exact_graph(device: torch.device) -> Iterator[None]:
    """Enable autograd whatever the caller's grad mode, and disable autocast: relevances divide by small numbers."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


def class_token_row(maps: Sequence[Tensor]) -> Tensor:
    """Return the class token's row of ``(I + C_L) ... (I + C_2) (I + C_1)``, without forming the product.

    Args:
        maps: C_l of the blocks, the first block first, each (B, n, n), rows are queries.

    Returns:
        (B, n); the class token's own column comes first.

    Example:
        >>> class_token_row([torch.tensor([[[0., 1.], [2., 0.]]]), torch.tensor([[[0., 3.], [0., 0.]]])])
        tensor([[7., 4.]])
    """
    row = torch.zeros_like(maps[-1][:, :1])  # (B, 1, n)
    row[..., 0] = 1
    for weights in reversed(maps):
        row = row + row @ weights
    return row[:, 0]
