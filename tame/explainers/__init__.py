"""Explanation methods: one signature, registered by name."""

from tame.explainers import (  # noqa: F401 - importing a module registers its methods
    attention_flow,
    cams,
    controls,
    iia,
    integrated,
    learned,
    lrp,
    perturbation_cams,
    rise,
)
from tame.explainers.base import EXPLAINERS, CheckedExplainer, Factory, build_explainer

__all__ = ["EXPLAINERS", "CheckedExplainer", "Factory", "build_explainer"]
