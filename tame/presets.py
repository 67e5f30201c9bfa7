"""Presets: where the paper, the authors' released program and our own measured choice differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tame.registry import Registry
from tame.types import LossForm, MaskingKind


@dataclass(frozen=True)
class Preset:
    """One consistent set of choices; any override is recorded beside the preset's name.

    Attributes:
        name: ``paper``, ``released`` or ``tame``.
        layers: Name of the tap set of the backbone's spec.
        init: How the attention mechanism starts.
        loss: Form of the area and variation terms.
        other_classes: Which other classes' maps enter the loss: drawn at ``random`` per image, or the
            predicted classes of the whole ``batch``.
        crop: Training crop: at the ``centre``, ``random``, or ``released`` (centre for feature maps, random
            with flip for tokens).
        output_size: Side of the class maps: of the ``largest`` tap, or the ``first`` tap's, at most 56.
        batch_size: Images per optimiser step.
        epochs: Passes over the training list.
        max_lr: Peak of the one-cycle schedule.
        masking: Masking of the second pass in evaluation; ``None`` is the backbone's own.
        ic_margin: p' must exceed p by more than this to count as an increase.
    """

    name: str
    layers: str
    init: Literal["random", "classifier"]
    trainable: Literal["all", "shared"]
    loss: LossForm
    other_classes: Literal["random", "batch"]
    crop: Literal["centre", "random", "released"]
    output_size: Literal["largest", "first"]
    batch_size: int
    epochs: int
    max_lr: float
    masking: MaskingKind | None
    ic_margin: float


PRESETS = Registry[Preset]("preset")
for _preset in (
    Preset("paper", "paper", "random", "all", "paper", "random", "random", "largest", 32, 8, 1e-3, None, 0.0),
    Preset("released", "released", "random", "all", "released", "batch", "released", "first", 32, 8, 1e-3, "cnn", 0.0),
    Preset("tame", "proposed", "classifier", "shared", "ranked", "batch", "centre", "largest", 16, 2, 5e-3, None, 1e-5),
):
    PRESETS.register(_preset.name)(_preset)
