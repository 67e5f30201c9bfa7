"""Gradients of the logits with respect to a layer, with an autograd graph that starts at the layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tame.classifier.calls import call_hook
from tame.classifier.frozen import FrozenClassifier
from tame.classifier.layout import channels_first
from tame.utils.checks import InputError


class ClassGradients(NamedTuple):
    """Gradients of the logits with respect to a feature layer, averaged over positions and images.

    Attributes:
        branch: Index of the layer in ``classifier.layers``.
        rows: d logit_n / d feature_c for every class n and channel c, (K, C).
    """

    branch: int
    rows: Tensor


def graph_from(classifier: FrozenClassifier, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Classify images with an autograd graph that starts at ``layer``: no activations before it are stored.

    Works under `torch.no_grad` and `torch.inference_mode`.

    Args:
        classifier: The classifier.
        layer: Module name (the output of its last call is used), or one call of a module such as ``pool#1``.
        images: (B, C, H, W) in [0, 1].

    Returns:
        The layer's output as a leaf of the graph, tokens (B, n, D) or maps (B, C, h, w), and the logits (B, K).
    """
    leaf = torch.empty(0)

    def restart_graph(output: Tensor) -> Tensor:
        nonlocal leaf
        leaf = output.detach().requires_grad_()
        return leaf.clone()  # an in-place activation may follow, and a leaf must not be modified in place

    with torch.inference_mode(False), torch.enable_grad(), call_hook(classifier.module, layer, restart_graph):
        logits = classifier.logits(images.detach().clone())  # inference tensors cannot enter a graph
    return leaf, logits


def as_map(classifier: FrozenClassifier, values: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
    """Return a layer's activations or gradients as a map (B, C, h, w).

    The gate of the token layout is not applied: it is not part of the classifier.

    Args:
        classifier: The classifier.
        values: Tokens (B, p + n, D), see `TokenLayout`, or maps with channels first or last, see `channels_first`.
        size: Height and width of the images; default: those of the spec.
    """
    tokens, values = classifier.spec.tokens, values.float() if classifier.casts else values
    if values.ndim == 4:
        return channels_first(values, size or classifier.spec.preprocessing.size)
    return values if tokens is None else replace(tokens, gate=False).to_map(values)


def class_gradients(classifier: FrozenClassifier, batches: Iterable[Tensor], chunk: int = 50) -> ClassGradients:
    """Average the Jacobian of all logits over positions and images, at the last feature layer that reaches them.

    After the last block of a transformer with a class token, patch tokens no longer reach the logits: the gradient
    there is zero, and an earlier layer is used.

    Args:
        classifier: The classifier; its feature layers are the candidates.
        batches: Batches of images, each (B, C, H, W) in [0, 1], on the classifier's device.
        chunk: Number of classes per backward pass; larger chunks need more memory.

    Raises:
        InputError: If there is no image, or no feature layer has a gradient of the logits.
    """
    branch, count = -1, 0
    total: Tensor | None = None
    with torch.inference_mode(False), torch.enable_grad():
        for images in batches:
            branch = _deepest(classifier, images) if branch < 0 else branch
            rows = _jacobian(classifier, classifier.layers[branch], images, chunk)
            total = rows if total is None else total + rows
            count += len(images)
    if total is None:
        raise InputError("expected at least one image to compute gradients on, got none")
    return ClassGradients(branch, total / count)


def _deepest(classifier: FrozenClassifier, images: Tensor) -> int:
    for index in reversed(range(len(classifier.layers))):
        leaf, logits = graph_from(classifier, classifier.layers[index], images[:1])
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
        if as_map(classifier, gradient).any():
            return index
    raise InputError(
        f"none of the layers {', '.join(classifier.layers)} reaches the logits of {classifier.spec.name}: "
        "choose earlier layers, or the initialisation (init) random"
    )


def _jacobian(classifier: FrozenClassifier, layer: str, images: Tensor, chunk: int) -> Tensor:
    """Return d logit / d feature (K, C), averaged over positions and summed over images."""
    leaf, logits = graph_from(classifier, layer, images)
    # images are independent, so the gradient of the sum over images contains each image's own gradient
    summed = logits.sum(0)  # (K,)
    rows = []
    for classes in torch.eye(len(summed), device=summed.device, dtype=summed.dtype).split(chunk):
        (gradients,) = torch.autograd.grad(summed, leaf, classes, is_grads_batched=True, retain_graph=True)
        maps = as_map(classifier, gradients.flatten(0, 1))  # (chunk * B, C, h, w)
        rows.append(maps.mean((2, 3)).unflatten(0, (len(classes), -1)).sum(1))
    return torch.cat(rows).float()
