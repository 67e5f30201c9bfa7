"""Explanation methods: one signature, registered by name."""

from tame.explainers import (  # noqa: F401 - importing a module registers its methods
    attention_flow,
    cams,
    controls,
    iia,
    integrated_gradients,
    learned,
    lrp,
    perturbation_cams,
    rise,
)
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import MethodName, build_explainer
from tame.explainers.learned import LearnedExplainer, load_explainer
from tame.explainers.registry import EXPLAINERS, Method

__all__ = [
    "EXPLAINERS",
    "CheckedExplainer",
    "LearnedExplainer",
    "Method",
    "MethodName",
    "build_explainer",
    "load_explainer",
]
