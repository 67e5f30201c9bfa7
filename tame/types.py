"""Types shared by all modules: literals, protocols and small results.

Shapes used in all modules: ``images`` float (B, C, H, W) in [0, 1], not normalised; ``logits`` (B, K); ``confidence``
(B,), the score of one class: softmax, sigmoid or the classifier's own probability, as the backbone's spec says;
``targets`` int64 (B,), class indices; ``features`` a tuple of (B, C_i, h_i, w_i); ``class_maps`` (B, N, h, w) of N
requested classes, before the sigmoid; ``maps`` (B, h, w), the unscaled output of an explainer. AD and IC are
percentages, ``keep`` is a fraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

MaskingKind = Literal["cnn", "vit"]
MapScaling = Literal["minmax", "rank"]
RemovalOrder = Literal["morf", "lerf"]
CausalOrder = Literal["insertion", "deletion"]
LossForm = Literal["paper", "released", "ranked", "cross-entropy"]
MaskedPart = Literal["image", "features"]
Interpolation = Literal["bilinear", "bicubic"]
ScoreKind = Literal["softmax", "sigmoid", "probability"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32", "16-mixed", "bf16-mixed"]


class ClassifierOutput(NamedTuple):
    """Output of a frozen classifier: ``logits`` (B, K) and the ``features`` of its layers, each (B, C_i, h_i, w_i)."""

    logits: Tensor
    features: tuple[Tensor, ...]


class Explainer(Protocol):
    """The signature of all explanation methods."""

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Explain ``targets`` (B,) on ``images`` (B, C, H, W): return unscaled maps (B, h, w)."""
        ...
