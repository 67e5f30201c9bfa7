"""The vocabulary shared by all modules: literals, protocols and small results.

Shapes used everywhere: ``images`` float (B, C, H, W) in [0, 1], never normalised; ``logits`` (B, K);
``confidence`` score of one class, softmax or sigmoid as the backbone says, (B,); ``targets`` int64 (B,);
``features`` tuple of (B, C_i, h_i, w_i); ``class_maps`` (B, N, h, w) before the sigmoid, N = number of asked classes;
``maps`` (B, h, w), an explainer's output, unscaled. AD and IC are percentages, ``keep`` a fraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

MaskingKind = Literal["cnn", "vit"]
MapScaling = Literal["minmax", "rank"]
RemovalOrder = Literal["morf", "lerf"]
CausalOrder = Literal["insertion", "deletion"]
MetricName = Literal["ad-ic", "road", "insertion", "deletion"]
LossForm = Literal["paper", "released", "ranked", "cross-entropy"]
MaskedPart = Literal["image", "features"]
Interpolation = Literal["bilinear", "bicubic"]
ScoreKind = Literal["softmax", "sigmoid"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32", "16-mixed", "bf16-mixed"]


class ClassifierOutput(NamedTuple):
    """What a frozen classifier says: ``logits`` (B, K) and its tapped ``features``, each (B, C_i, h_i, w_i)."""

    logits: Tensor
    features: tuple[Tensor, ...]


class Explainer(Protocol):
    """The one signature of every explanation method."""

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Explain ``targets`` (B,) on ``images`` (B, C, H, W): return unscaled maps (B, h, w)."""
        ...
