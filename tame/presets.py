"""Presets: where the paper, the authors' released program and our own measured choice differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tame.types import LossForm, MaskingKind
from tame.utils.registry import Registry


@dataclass(frozen=True)
class Preset:
    """One consistent set of choices; any override is recorded beside the preset's name.

    Attributes:
        name: ``paper``, ``released`` or ``tame``.
        layers: Name of the layer set of the backbone's spec.
        init: How the attention mechanism starts.
        trainable: ``all`` of the mechanism, or one fusion row that all classes share (``shared``).
        loss: Form of the loss, see `tame.attention.loss.AttentionLoss`.
        other_classes: Which other classes' maps enter the loss: drawn at ``random`` per image, or the
            predicted classes of the whole ``batch``.
        crop: Training crop: at the ``centre``, ``random``, or ``released`` (centre for feature maps, random
            with flip for tokens).
        output_size: Side of the class maps: of the ``largest`` feature map, or the ``first`` one's, at most 56.
        batch_size: Images per optimiser step.
        epochs: Passes over the training list.
        max_lr: Peak of the one-cycle schedule.
        token_attention: Attention mechanism of classifiers that work on tokens.
        token_max_lr: Peak of the schedule where a shared row of tokens is trained.
        masking: Masking of the second pass in evaluation; ``None`` is the backbone's own.
        ic_margin: p' must exceed p by more than this to count as an increase.
        road_selection: ROAD removes ``exact`` counts, or all that reaches a ``percentile``.
        road_space: ROAD imputes the ``image`` in [0, 1], or what is fed to the ``network``.
        road_reading: ROAD's headline: mean ``confidence``, or share of images whose class is ``kept``.
        rise_weights: RISE weights its masks by the ``confidence`` or the ``logit`` of the target.
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
    token_attention: str
    token_max_lr: float
    masking: MaskingKind | None
    ic_margin: float
    road_selection: Literal["exact", "percentile"]
    road_space: Literal["image", "network"]
    road_reading: Literal["confidence", "kept"]
    rise_weights: Literal["confidence", "logit"]

    def method_arguments(self, method: str) -> dict[str, Any]:
        """Return the arguments of an explanation method that this preset sets."""
        return {"weights": self.rise_weights} if method == "rise" else {}


_PAPER = Preset(
    name="paper",
    layers="paper",
    init="random",
    trainable="all",
    loss="paper",
    other_classes="random",
    crop="random",
    output_size="largest",
    batch_size=32,
    epochs=8,
    max_lr=1e-3,
    token_attention="ttame",
    token_max_lr=1e-3,
    masking=None,
    ic_margin=0.0,
    road_selection="exact",
    road_space="image",
    road_reading="confidence",
    rise_weights="confidence",
)
_RELEASED = replace(
    _PAPER,
    name="released",
    layers="released",
    loss="released",
    other_classes="batch",
    crop="released",
    output_size="first",
    masking="cnn",
    road_selection="percentile",
    road_space="network",
    road_reading="kept",
    rise_weights="logit",
)
_TAME = replace(
    _PAPER,
    name="tame",
    layers="proposed",
    init="classifier",
    trainable="shared",
    loss="ranked",
    other_classes="batch",
    crop="centre",
    batch_size=16,
    epochs=2,
    max_lr=5e-3,
    token_attention="ttame-smooth",
    token_max_lr=0.05,
    ic_margin=1e-5,
)

PRESETS = Registry[Preset]("preset")
for _preset in (_PAPER, _RELEASED, _TAME):
    PRESETS.register(_preset.name)(_preset)
