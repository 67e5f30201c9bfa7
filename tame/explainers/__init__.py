"""Explanation methods: one signature, registered by name."""

from tame.explainers import cams, controls, learned  # noqa: F401 - importing a module registers its methods
from tame.explainers.base import EXPLAINERS, CheckedExplainer, Factory, build_explainer

__all__ = ["EXPLAINERS", "CheckedExplainer", "Factory", "build_explainer"]
