"""Iterated integrated attributions (IIA), for feature maps and for transformers."""

from tame.explainers.iia import methods  # noqa: F401 - importing a module registers its methods
