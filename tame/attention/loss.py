"""The training loss: weights over named terms."""

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

    ``1.5 CE(masked logits, model truth) + 2 area(maps) + 0.01 variation(maps)`` by default.

    Args:
        form: Form of area and variation, see `tame.functional.losses`; ``ranked``: cross-entropy alone, for
            `ExplainedClassifier.ranked_pass`, where the area is given and not learned; ``cross-entropy``: that alone,
            with the masks as they are (the A forms of L-CAM).
        cross_entropy: Weight.
        area: Weight.
        variation: Weight.
        score: What the classifier's confidences are: the cross-entropy is minus the logarithm of the target's.
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

    def forward(self, result: TrainingPass) -> dict[str, Tensor]:
        """Return the weighted terms by name and their sum as ``total``, all scalars."""
        terms = {"cross_entropy": losses.cross_entropy(result.masked_logits, result.targets, self.score)}
        if self.form in _AREA:
            terms["area"] = _AREA[self.form](result.maps)
            terms["variation"] = _VARIATION[self.form](result.maps)
        weighted = {name: self.weights[name] * value for name, value in terms.items()}
        return weighted | {"total": torch.stack(list(weighted.values())).sum()}
