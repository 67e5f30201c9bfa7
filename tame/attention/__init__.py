"""What is trained: attention mechanisms, from feature maps to class maps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from tame.attention.lcam import LCAM, LCAM_FORMS
from tame.attention.mechanism import TAME
from tame.utils.registry import Registry

__all__ = ["ATTENTIONS", "LCAM", "LCAM_FORMS", "OLD_NAMES", "TAME", "build_attention"]


def _no_skip(channels: Sequence[int], num_classes: int, **options: Any) -> TAME:
    """Without skip connections; every branch has K channels, as in the released program."""
    return TAME(channels, num_classes, skip=False, branch_channels=num_classes, **options)


ATTENTIONS = Registry[Callable[..., nn.Module]]("attention mechanism")
ATTENTIONS.register("ttame")(TAME)
ATTENTIONS.register("ttame-no-skip")(_no_skip)
ATTENTIONS.register("ttame-no-skip-no-norm")(partial(TAME, skip=False, batch_norm=False))
ATTENTIONS.register("ttame-sigmoid")(partial(TAME, activation="sigmoid"))
ATTENTIONS.register("ttame-smooth")(partial(TAME, smooth=3))
for _name, _form in LCAM_FORMS.items():
    ATTENTIONS.register(_name)(partial(LCAM, masks=_form.masks))

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
    return ATTENTIONS.get(name)(channels, num_classes, **options)
