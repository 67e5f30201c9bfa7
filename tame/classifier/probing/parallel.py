"""Choose among layers that reach the logits side by side: test-time flips, ensembles, networks of two streams."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tame.classifier.layout import channels_first
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

MISPLACED = -0.1
"""Largest `alignment` of a layer that sees a flipped image; a layer that mixes all positions has one of about 0."""


class Candidate(NamedTuple):
    """A layer that can be a feature layer: its name, its module's name, and its output."""

    name: str
    path: str
    output: Tensor


class Choice(NamedTuple):
    """Layers that are read, layers beside them that are not, and those of them that see a flipped or turned image."""

    read: list[Candidate]
    beside: list[Candidate]
    turned: list[Candidate]


def choose(pool: Sequence[Candidate], images: Tensor, spec: BackboneSpec, count: int) -> Choice:
    """Choose the last ``count`` layers of ``pool``, of those whose positions are the image's positions.

    Layers of which one is computed from the other are in sequence, and positions are not compared. If others reach the
    logits beside the last one, only layers are chosen whose `alignment` is at least half of the best.

    Args:
        pool: Layers that reach the logits, in the order of their calls, for one image.
        images: The recorded image, which requires a gradient.
        spec: Specification of the classifier.
        count: Number of layers.

    Raises:
        InputError: If all of them see a flipped image.
    """
    if not beside(pool):
        return Choice(list(pool[-count:]), [], [])
    found = {candidate.name: alignment(candidate.output, images, spec) for candidate in pool}
    best = max(found.values())
    if best < MISPLACED:
        raise InputError(
            f"expected layers of {spec.name} that see the image unflipped, got a flipped image in "
            f"{', '.join(found)}: wrap the network so that it classifies the image as it is"
        )
    least = min(best, best / 2)
    kept = [candidate for candidate in pool if found[candidate.name] >= least]
    turned = [candidate for candidate in pool if found[candidate.name] < least]
    return Choice(
        kept[-count:], [other for other in beside(kept) if all(other is not one for one in kept[-count:])], turned
    )


def say_choices(choices: Sequence[Choice], name: str) -> None:
    """Log which layers are read and which are not, if there are some beside those that are read."""
    read = [candidate.name for choice in choices for candidate in choice.read]
    parts = {
        "not read": [candidate.name for choice in choices for candidate in choice.beside],
        "not read, since they see a flipped or turned image": [
            candidate.name for choice in choices for candidate in choice.turned
        ],
    }
    if any(parts.values()):
        rest = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
        logger.warning(
            "several layers of %s reach the logits side by side; read: %s; %s; choose others by name (layers)",
            name,
            ", ".join(read),
            rest,
        )


def beside(pool: Sequence[Candidate]) -> list[Candidate]:
    """Return the layers that the last one of ``pool`` is not computed from, of those before it."""
    if len(pool) < 2:
        return []
    outputs = [candidate.output for candidate in pool[:-1]]
    with torch.enable_grad():
        gradients = torch.autograd.grad(pool[-1].output.sum(), outputs, retain_graph=True, allow_unused=True)
    return [candidate for candidate, gradient in zip(pool, gradients, strict=False) if gradient is None]


def alignment(output: Tensor, images: Tensor, spec: BackboneSpec) -> float:
    """Return how well the positions of a layer's output agree with the positions of the image that they depend on.

    The gradient of the right (lower) half of the output, at the image, has its centre of mass further right (down) than
    the gradient of the left (upper) half. The smaller of the two distances, in widths and heights of the image, is
    returned: about 0.5 for small receptive fields, 0 for large ones and quarter turns, -0.5 for flips.

    Args:
        output: Maps (1, C, h, w) or (1, h, w, C), or tokens of the layout of the spec.
        images: (1, C, H, W), which ``output`` was computed from.
        spec: Specification of the classifier.
    """
    distances = []
    for axis in (2, 3):
        centres = []
        for half in (0, 1):
            with torch.enable_grad():
                maps = channels_first(output, images.shape[2:]) if output.ndim == 4 else _patches(output, spec)
                part = maps.chunk(2, axis)[-half]
                (gradient,) = torch.autograd.grad(part.square().sum(), images, retain_graph=True)
            mass = gradient.abs().double().sum([other for other in range(4) if other != axis])
            places = torch.linspace(0, 1, len(mass), dtype=mass.dtype, device=mass.device)
            centres.append(float((mass * places).sum() / mass.sum().clamp_min(torch.finfo(mass.dtype).tiny)))
        distances.append(centres[1] - centres[0])
    return min(distances)


def _patches(tokens: Tensor, spec: BackboneSpec) -> Tensor:
    if spec.tokens is None:
        raise ValueError("expected the spec of a classifier that works on tokens")
    return replace(spec.tokens, gate=False).to_map(tokens)
