"""Attention mechanisms, from feature maps to class maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from tame.attention.lcam import LCAM, LCAM_FORMS
from tame.attention.mechanism import TAME
from tame.utils.registry import Registry

__all__ = ["ATTENTIONS", "LCAM", "LCAM_FORMS", "OLD_NAMES", "TAME", "Mechanism", "build_attention"]

_TTAME = "Ntrougkas et al., IEEE Access 2024"
_LCAM = "Gkartzonika et al., ECCV-W 2022"


@dataclass(frozen=True)
class Mechanism:
    """One attention mechanism.

    Attributes:
        summary: What it computes, in a few words.
        cost: Its weights, for feature maps of C_i channels and K classes.
        build: Builds it: ``build(channels, num_classes, **options)``.
        paper: Where it was published; None for our own.
    """

    summary: str
    cost: str
    build: Callable[..., nn.Module]
    paper: str | None = None


def _no_skip(channels: Sequence[int], num_classes: int, **options: Any) -> TAME:
    """Without skip connections; every branch has K channels, as in the released program."""
    return TAME(channels, num_classes, skip=False, branch_channels=num_classes, **options)


_BRANCHES = "sum of C_i x C_i in the branches, K x sum of C_i in the fusion"

ATTENTIONS = Registry[Mechanism]("attention mechanism")
ATTENTIONS.register("ttame")(
    Mechanism("T-TAME: a branch per feature layer with skip connection, fused to class maps", _BRANCHES, TAME, _TTAME)
)
ATTENTIONS.register("ttame-no-skip")(
    Mechanism(
        "ablation of T-TAME: no skip connections, branches of K channels",
        "sum of C_i x K in the branches, K x K per feature layer in the fusion",
        _no_skip,
        _TTAME,
    )
)
ATTENTIONS.register("ttame-no-skip-no-norm")(
    Mechanism(
        "ablation of T-TAME: no skip connections, no batch norm",
        _BRANCHES,
        partial(TAME, skip=False, batch_norm=False),
        _TTAME,
    )
)
ATTENTIONS.register("ttame-sigmoid")(
    Mechanism(
        "ablation of T-TAME: sigmoid in the place of ReLU", _BRANCHES, partial(TAME, activation="sigmoid"), _TTAME
    )
)
ATTENTIONS.register("ttame-smooth")(
    Mechanism(
        "T-TAME for tokens: class maps averaged over 3 x 3 neighbours, which are less correlated than in feature maps",
        _BRANCHES,
        partial(TAME, smooth=3),
    )
)
for _name, _form in LCAM_FORMS.items():
    _masked = {"image": "the image", "features": "the feature map"}[_form.masks]
    _loss = "cross-entropy alone" if _form.cross_entropy_only else "all loss terms"
    ATTENTIONS.register(_name)(
        Mechanism(
            f"L-CAM: one 1x1 convolution over one feature layer; in training its map masks {_masked}, with {_loss}",
            "K x C",
            partial(LCAM, masks=_form.masks),
            _LCAM,
        )
    )

OLD_NAMES = {"lcam": "lcam-img"}
"""Names in earlier checkpoints, and what they are now."""


def build_attention(
    name: str, channels: Sequence[int], num_classes: int, output_size: Literal["largest", "first"] = "largest"
) -> nn.Module:
    """Build the attention mechanism registered as ``name``, randomly initialised.

    Args:
        name: See `ATTENTIONS`.
        channels: C_i of each feature map.
        num_classes: K.
        output_size: See `TAME`; a mechanism of one layer has only one size.

    Raises:
        InputError: For an unknown name, or feature layers it cannot take.
    """
    options = {} if name in LCAM_FORMS else {"output_size": output_size}
    return ATTENTIONS.get(name).build(channels, num_classes, **options)
