"""Relevance rules of Transformer LRP: how each kind of operation distributes relevance to its inputs.

A method is a table from kinds of operations to rules; the propagation through a network (`walk`) contains no rule.
Every rule conserves the total relevance up to its stabiliser.

Source of all rules: Chefer et al., "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, Sec. 3.1
and 3.2, with the authors' stabiliser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STABILISER = 1e-9
"""Added to every denominator, also to negative ones."""


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return ``a / (b + 1e-9)``, and 0 where b is 0; shapes broadcast.

    Example:
        >>> divide(torch.ones(3), torch.tensor([2.0, 0.0, -4.0]))
        tensor([ 0.5000,  0.0000, -0.2500])
    """
    stabilised = denominator + STABILISER
    stabilised = torch.where(stabilised == 0, STABILISER, stabilised)
    return torch.where(denominator == 0, 0, numerator / stabilised)


def linear(inputs: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """Distribute relevance among the inputs of ``y = W x + c`` by their positive contributions, without the bias.

    ``R_j = sum_i R_i (x_j W_ij)+ / sum_j (x_j W_ij)+``.

    Args:
        inputs: x (..., D).
        weight: W (E, D).
        relevance: R of y (..., E).

    Returns:
        R of x (..., D).

    Example:
        >>> linear(torch.tensor([1.0, -1.0, 3.0]), torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([8.0]))
        tensor([2., 0., 6.])
    """
    parts = [(inputs.clamp(min=0), weight.clamp(min=0)), (inputs.clamp(max=0), weight.clamp(max=0))]
    shares = divide(relevance, sum(x @ w.mT for x, w in parts))  # type: ignore[arg-type] # a tensor, not 0
    (positive, up), (negative, down) = parts
    return positive * (shares @ up) + negative * (shares @ down)


def product(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Distribute relevance among the factors of ``Y = A B``, half to each.

    ``S = R / (A B)``, ``R_A = A * (S B^T) / 2``, ``R_B = B * (A^T S) / 2``.

    Args:
        left: A (..., n, k).
        right: B (..., k, m).
        relevance: R of Y (..., n, m).

    Returns:
        R of A (..., n, k) and of B (..., k, m).

    Example:
        >>> product(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([[8.0]]))
        (tensor([[1., 3.]]), tensor([[1.], [3.]]))
    """
    shares = divide(relevance, left @ right)
    return left * (shares @ right.mT) / 2, right * (left.mT @ shares) / 2


def add(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Distribute relevance among the terms of ``y = a + b``, in proportion to the total of each.

    ``r_a = a R / (a + b)``, ``S_a = sum r_a``, ``R_a = r_a / S_a * |S_a| / (|S_a| + |S_b|) * sum R``, the same
    for b. Sums are over one image: the authors' program sums over the batch, which is correct for one image only.

    Args:
        left: a (B, ...).
        right: b (B, ...).
        relevance: R of y (B, ...).

    Returns:
        R of a and of b, each (B, ...).

    Example:
        >>> add(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 1.0]]))
        (tensor([[-0.6000,  0.8000]]), tensor([[0.2000, 1.6000]]))
    """
    every = tuple(range(1, relevance.ndim))
    shares = divide(relevance, left + right)
    raw = left * shares, right * shares
    sums = [part.sum(every, keepdim=True) for part in raw]
    total, size = relevance.sum(every, keepdim=True), sums[0].abs() + sums[1].abs()
    first, second = (part * divide(divide(own.abs(), size) * total, own) for part, own in zip(raw, sums, strict=True))
    return first, second


def join(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the relevance of ``values`` that are used twice: the sum of both, up to the stabiliser."""
    return values * (divide(first, values) + divide(second, values))


def select(tokens: Tensor, relevance: Tensor) -> Tensor:
    """Return the relevance (B, n, D) of ``tokens`` if only the first is used and has ``relevance`` (B, D)."""
    shared = torch.zeros_like(tokens)
    shared[:, 0] = tokens[:, 0] * divide(relevance, tokens[:, 0])
    return shared


def identity(relevance: Tensor) -> Tensor:
    """Return the relevance unchanged."""
    return relevance


@dataclass(frozen=True)
class RelevanceRules:
    """A table from kinds of operations to rules.

    Attributes:
        linear: Input, weight and relevance of the output -> relevance of the input.
        product: Both factors and relevance of the matrix product -> relevance of both.
        add: Both terms and relevance of the sum -> relevance of both.
        join: Values and the relevances of their two uses -> their relevance.
        select: Tokens and relevance of the first -> relevance of all.
        norm: Relevance after a LayerNorm -> relevance before it.
        activation: The same for an activation.
        softmax: The same for the softmax of the attention (and its scale).
    """

    linear: Callable[[Tensor, Tensor, Tensor], Tensor] = linear
    product: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = product
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = add
    join: Callable[[Tensor, Tensor, Tensor], Tensor] = join
    select: Callable[[Tensor, Tensor], Tensor] = select
    norm: Callable[[Tensor], Tensor] = identity
    activation: Callable[[Tensor], Tensor] = identity
    softmax: Callable[[Tensor], Tensor] = identity


TRANSFORMER_LRP = RelevanceRules()
"""The rules of Chefer et al.'s ``transformer_attribution``."""
