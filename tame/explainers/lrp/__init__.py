"""Layer-wise relevance propagation for transformers: rules as data, applied to the operations of the network."""

from tame.explainers.lrp import cp, transformer  # noqa: F401 - importing a module registers its methods
