"""Which form of IIA explains which classifier."""

from __future__ import annotations

from tame.backbones import FrozenClassifier
from tame.explainers.base import EXPLAINERS
from tame.explainers.cams import at_cam_layer
from tame.explainers.iia.attention import AttentionIIA
from tame.explainers.iia.maps import ReleasedIIA, RepairedIIA
from tame.options import MethodOptions
from tame.types import Explainer


@EXPLAINERS.register("iia")
def _iia(classifier: FrozenClassifier, options: MethodOptions) -> Explainer:
    """IIA as published for tokens; for feature maps our repair of it, at the CAM layer."""
    return AttentionIIA(classifier) if classifier.spec.tokens else at_cam_layer(RepairedIIA)(classifier, options)


@EXPLAINERS.register("iia_released")
def _iia_released(classifier: FrozenClassifier, options: MethodOptions) -> Explainer:
    """IIA as the released program computes it; for tokens that is `iia`."""
    return AttentionIIA(classifier) if classifier.spec.tokens else at_cam_layer(ReleasedIIA)(classifier, options)
