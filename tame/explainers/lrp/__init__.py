"""Layer-wise relevance propagation for transformers: rules as data over an opened network."""

from tame.explainers.lrp import cp, transformer  # noqa: F401 - importing a module registers its methods
