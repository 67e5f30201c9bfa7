"""The training loss: a weighted sum of named terms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tame.attention.model import TrainingPass
from tame.functional import losses
from tame.types import LossForm, ScoreKind

_AREA = {"paper": losses.area_paper, "released": losses.area_released}
_VARIATION = {"paper": losses.variation_paper, "released": losses.variation_released}


class AttentionLoss(nn.Module):
    """Weighted sum of cross-entropy, area and variation (T-TAME, Eq. 11-17).

    ``1.5 CE(masked logits, model truth) + 2 area(maps) + 0.01 variation(maps)`` by default, where the model truth is
    the class that the classifier predicts for the unmasked image.

    Args:
        form: ``paper`` or ``released`` form of area and variation, see `tame.functional.losses`; ``ranked``:
            cross-entropy alone, for `ExplainedClassifier.ranked_pass`, where the area is fixed; ``cross-entropy``:
            cross-entropy alone (the A variants of L-CAM).
        cross_entropy: Weight of the cross-entropy.
        area: Weight of the area.
        variation: Weight of the variation.
        score: How logits become confidences, see `tame.functional.losses.cross_entropy`.
    """

    def __init__(
        self,
        form: LossForm = "released",
        cross_entropy: float = 1.5,
        area: float = 2.0,
        variation: float = 0.01,
        score: ScoreKind = "softmax",
    ) -> None:
        super().__init__()
        self.form = form
        self.score = score
        self.weights = {"cross_entropy": cross_entropy, "area": area, "variation": variation}

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms."""
        return tuple(self.weights) if self.form in _AREA else ("cross_entropy",)

    def forward(self, result: TrainingPass) -> dict[str, Tensor]:
        """Return the weighted terms by name and their sum as ``total``, all scalars."""
        terms = {"cross_entropy": losses.cross_entropy(result.masked_logits, result.targets, self.score)}
        if self.form in _AREA:
            terms["area"] = _AREA[self.form](result.maps)
            terms["variation"] = _VARIATION[self.form](result.maps)
        weighted = {name: self.weights[name] * value for name, value in terms.items()}
        return weighted | {"total": torch.stack(list(weighted.values())).sum()}
