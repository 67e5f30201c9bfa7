"""Propagate relevance back through a transformer, from the logits to each block's input, by any rules."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tame.classifier.blocks.transformer import Block, BlockPass, EncoderPass, Transformer
from tame.explainers.lrp.rules import RelevanceRules


class BlockRelevance(NamedTuple):
    """Relevance at each step of a block, in the order of computation; shapes as in `BlockPass`.

    Attributes:
        output: Of the block's output.
        middle_skip: Of the second sum's skip connection.
        mlp: Of the second sum's branch.
        middle_normed: Of the input of fc1.
        skip: Of the first sum's skip connection.
        attended: Of the first sum's branch.
        mixed: Of the input of the output projection.
        attention: Of the attention A, (B, H, n, n).
        values: (B, H, n, d).
        normed: Of the input of the attention.
        tokens: Of the block's input.
    """

    output: Tensor
    middle_skip: Tensor
    mlp: Tensor
    middle_normed: Tensor
    skip: Tensor
    attended: Tensor
    mixed: Tensor
    attention: Tensor
    values: Tensor
    normed: Tensor
    tokens: Tensor


def head_relevance(
    transformer: Transformer, seen: EncoderPass, targets: Tensor, rules: RelevanceRules
) -> tuple[Tensor, Tensor]:
    """Return the relevance of the class token (B, D), and of all tokens (B, n, D), after the last block.

    It starts with 1 at the logit of each image's target (B,), not with the value of the logit.
    """
    start = F.one_hot(targets, seen.logits.shape[1]).to(seen.logits)
    chosen = rules.linear(seen.tokens[:, 0], transformer.head.weight, start)
    return chosen, rules.norm(rules.select(seen.tokens, chosen))


def block_relevance(block: Block, seen: BlockPass, relevance: Tensor, rules: RelevanceRules) -> BlockRelevance:
    """Propagate relevance (B, n, D) from a block's output to its input.

    Args:
        block: The block.
        seen: Its forward pass.
        relevance: Relevance of its output.
        rules: How each kind of operation distributes relevance.
    """
    middle_skip, mlp = rules.add(seen.middle, seen.mlp, relevance)
    hidden = rules.linear(seen.hidden, block.fc2.weight, mlp)
    middle_normed = rules.linear(seen.middle_normed, block.fc1.weight, rules.activation(hidden))
    middle = rules.join(seen.middle, middle_skip, rules.norm(middle_normed))

    skip, attended = rules.add(seen.tokens, seen.attended, middle)
    mixed = rules.linear(seen.mixed, block.out.weight, attended)
    attention, values = rules.product(seen.attention, seen.values, block.split(mixed))
    queries, keys = rules.product(seen.queries, seen.keys.mT, rules.softmax(attention))
    projected = torch.cat([block.merge(part) for part in (queries, keys.mT, values)], -1)  # (B, n, 3 * H * d)
    normed = rules.linear(seen.normed, block.qkv_weight, projected)
    tokens = rules.join(seen.tokens, skip, rules.norm(normed))
    return BlockRelevance(
        relevance, middle_skip, mlp, middle_normed, skip, attended, mixed, attention, values, normed, tokens
    )
