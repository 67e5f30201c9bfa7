"""Recognise classifiers that return probabilities, and convert these to log-probabilities."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from tame.classifier.spec import BackboneSpec
from tame.types import ScoreKind
from tame.utils.checks import InputError

logger = logging.getLogger("tame")

_SCALES = (1, 1, 1, 1, 0, 0.1, 3, 10)
"""Scale of each random image on which a network is run: logits leave [0, 1] on some of them, probabilities do not."""

_TINY = torch.finfo(torch.float32).tiny
_BOUNDED = ("Softmax", "Sigmoid", "Hardsigmoid", "Hardtanh", "Clamp", "Tanh", "Exp")
_WEIGHTED = ("Addmm", "Mm", "Bmm", "Convolution", "Addbmm", "Baddbmm", "MkldnnConvolution", "ToMkldnn")
_TOLERANCE = 1e-2
"""Allows for sums of 1000 probabilities in bfloat16."""


def infer_score(
    name: str, module: nn.Module, shape: tuple[int, int, int], logits: Tensor, dtype: torch.dtype
) -> ScoreKind:
    """Return ``probability`` for a network whose outputs are probabilities, otherwise ``softmax``.

    Probabilities are values in [0, 1] for random images of several scales, of which in addition: each row sums to 1;
    or (a single output, or independent ones) the last operation is bounded, such as a sigmoid. The latter is read from
    the autograd graph; where the network leaves none, the range alone decides. What is found is logged.

    Args:
        name: Name of the classifier, for the message.
        module: The network, in eval mode; it returns its logits or probabilities as one tensor.
        shape: (C, H, W) of its input.
        logits: What it returned for some random images.
        dtype: Type of its input.
    """
    if not _in_range(logits):
        return "softmax"
    noise = torch.randn((len(_SCALES), *shape), generator=torch.Generator().manual_seed(1))
    images = (noise * torch.tensor(_SCALES).view(-1, 1, 1, 1)).to(logits.device, dtype)
    with torch.inference_mode(False), torch.enable_grad():
        found = module(images.requires_grad_())
    if not _in_range(found):
        return "softmax"
    if found.ndim > 1 and found.shape[1] > 1 and _sum_to_one(found):
        kind = "rows in [0, 1] that sum to 1"
    elif found.grad_fn is None or _is_bounded(found.grad_fn):
        kind = "values in [0, 1]"
    else:
        return "softmax"
    logger.warning(
        "%s returns probabilities (%s for random images): they are its confidences, and their logarithms its logits "
        "(score probability); if they are logits, say so with the score softmax or sigmoid",
        name,
        kind,
    )
    return "probability"


def warn_of_probabilities(logits: Tensor, spec: BackboneSpec) -> None:
    """Log a warning if the outputs of a classifier whose spec says that they are logits are in [0, 1] and sum to 1."""
    wide = logits.ndim == 2 and logits.shape[1] > 1
    if spec.score == "softmax" and wide and _in_range(logits) and _sum_to_one(logits):
        logger.warning(
            "%s returns values in [0, 1] that sum to 1 where its spec says logits (score softmax): if they are "
            "probabilities, its score is probability",
            spec.name,
        )


def check_probabilities(values: Tensor, name: str) -> None:
    """Check that the outputs of a classifier with the score ``probability`` are in [0, 1].

    Raises:
        InputError: If they are not.
    """
    if not _in_range(values):
        low, high = values.amin().item(), values.amax().item()
        raise InputError(
            f"expected probabilities in [0, 1] from {name} (score probability), got {low:.4g} to {high:.4g}"
        )


def log_probabilities(values: Tensor) -> Tensor:
    """Return ``log p`` in float32, where p below the smallest normal number counts as that.

    Example:
        >>> log_probabilities(torch.tensor([[0.25, 0.75]])).exp()
        tensor([[0.2500, 0.7500]])
    """
    return values.float().clamp(min=_TINY).log()


def log_probability_pair(values: Tensor) -> Tensor:
    """Convert one probability p per image, (B,) or (B, 1), to ``(log(1 - p), log p)``, (B, 2).

    Example:
        >>> log_probability_pair(torch.tensor([0.25])).exp()
        tensor([[0.7500, 0.2500]])
    """
    positive = values.float().reshape(-1, 1)
    return log_probabilities(torch.cat((1 - positive, positive), 1))


def _sum_to_one(values: Tensor) -> bool:
    return bool((values.detach().double().sum(1) - 1).abs().amax() < _TOLERANCE)


def _in_range(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())  # False for NaN


def _is_bounded(function: object) -> bool:
    """Whether a bounded operation follows the last operation with weights of an autograd graph."""
    waiting, seen = [function], set[object]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = type(node).__name__
        if kind.startswith(_BOUNDED):
            return True
        if not kind.startswith(_WEIGHTED):
            waiting.extend(each for each, _ in getattr(node, "next_functions", ()))
    return False
