"""Presets: consistent settings of the paper, of the authors' released program, and our own defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from tame.types import LossForm, MaskingKind
from tame.utils.registry import Registry


@dataclass(frozen=True)
class Preset:
    """A consistent set of settings for training and evaluation; overrides are recorded beside the preset's name.

    Attributes:
        name: ``paper``, ``released`` or ``tame``.
        layers: Layer set of the backbone's spec, see `tame.classifier.BackboneSpec`.
        init: Initialisation of the attention mechanism: ``random``, or from the gradients of the ``classifier``.
        trainable: Train ``all`` weights of the mechanism, or one fusion row that all classes share (``shared``).
        loss: Form of the loss, see `tame.attention.loss.AttentionLoss`.
        other_classes: Which other classes' maps enter the loss: drawn at ``random`` for each image, or the
            predicted classes of the whole ``batch``.
        crop: Crop of training images: ``centre``, ``random``, or ``released`` (centre for classifiers of feature maps,
            random with flip for those of tokens).
        output_size: Size of the class maps: that of the ``largest`` feature map, or that of the ``first``, at most 56.
        batch_size: Images per optimiser step.
        epochs: Number of passes over the training images.
        max_lr: Peak learning rate of the one-cycle schedule.
        token_attention: Attention mechanism for classifiers that work on tokens.
        token_max_lr: Peak learning rate if a shared row is trained for a classifier that works on tokens.
        masking: How images are masked in evaluation, ``cnn`` or ``vit``; None: the backbone's own.
        ic_margin: Smallest increase p' - p of the confidence that counts for Increase in Confidence (exclusive).
        road_selection: ROAD removes ``exact`` numbers of pixels, or all pixels that reach a ``percentile``.
        road_space: ROAD imputes the ``image`` in [0, 1], or the normalised input of the ``network``.
        road_reading: Main value of ROAD: mean ``confidence`` under MoRF, or accuracy (top-1 unchanged, ``kept``).
        rise_weights: RISE weights its masks by the ``confidence`` or the ``logit`` of the target class.
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
        return {"weighting": self.rise_weights} if method == "rise" else {}


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
