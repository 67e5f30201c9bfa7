"""Layer-wise relevance propagation for transformers: rules as data over an opened network."""

from tame.explainers.lrp import cp, transformer  # noqa: F401 - importing a module registers its methods

TRANSFORMERS_ONLY = frozenset({"chefer_generic", "cp_lrp", "transformer_lrp"})
"""Methods that read the attention of a transformer with a class token: any other classifier is an `InputError`."""
