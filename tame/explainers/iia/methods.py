"""IIA for every classifier: by attention for transformers with a class token, otherwise by feature maps."""

from __future__ import annotations

from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.iia.attention import AttentionIIA
from tame.explainers.iia.maps import ReleasedIIA, RepairedIIA
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


def _iia(
    classifier: FrozenClassifier, layer: str | None = None, steps: int | None = None, batch_size: int | None = None
) -> CheckedExplainer:
    """Build IIA: as in the paper for transformers; for feature maps, our repair of the authors' program."""
    return _build(RepairedIIA, classifier, layer, steps, batch_size)


def _iia_released(
    classifier: FrozenClassifier, layer: str | None = None, steps: int | None = None, batch_size: int | None = None
) -> CheckedExplainer:
    """Build IIA as in the authors' program; for transformers the same as `_iia`."""
    return _build(ReleasedIIA, classifier, layer, steps, batch_size)


def _build(
    kind: type[ReleasedIIA],
    classifier: FrozenClassifier,
    layer: str | None,
    steps: int | None,
    batch_size: int | None,
) -> CheckedExplainer:
    sizes = {"steps": steps, "batch_size": batch_size}
    named = {name: value for name, value in sizes.items() if value is not None}
    if not classifier.spec.tokens:
        return kind(classifier, layer, **named)
    if layer is not None:
        raise InputError(f"IIA reads the attention of {classifier.spec.name}: expected no layer, got {layer!r}")
    return AttentionIIA(classifier, **named)


for _name, _title, _factory, _summary, _cost in (
    (
        "iia",
        "IIA",
        _iia,
        "integral of gradients over image and feature map",
        "121 forward, 121 backward from the layer",
    ),
    (
        "iia_released",
        "IIA (released)",
        _iia_released,
        "IIA as in the authors' program: the integral over the image alone",
        "11 forward, 11 backward",
    ),
):
    EXPLAINERS.register(_name)(Method(_title, _summary, _cost, _factory, "Barkan et al., ICCV 2023"))
