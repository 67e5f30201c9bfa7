"""Names of perturbed inputs, such as ``minmax_50``, ``morf_10``, ``deletion_3``, and of their columns in a run."""

from __future__ import annotations

from tame.types import CausalOrder, MapScaling, RemovalOrder


def percent(fraction: float) -> str:
    """Return a fraction as a percentage for names.

    Example:
        >>> percent(1.0), percent(0.15), percent(0.125)
        ('100', '15', '12.5')
    """
    return f"{100 * fraction:g}"


def masked_name(scaling: MapScaling, keep: float) -> str:
    """Return the name of the input that keeps the most relevant pixels of a scaled map."""
    return f"{scaling}_{percent(keep)}"


def imputed_name(order: RemovalOrder, remove: float) -> str:
    """Return the name of the input whose most (``morf``) or least (``lerf``) relevant pixels are imputed."""
    return f"{order}_{percent(remove)}"


def causal_name(kind: CausalOrder, step: int) -> str:
    """Return the name of a step of ``insertion`` or ``deletion``; step 0 is the start of the curve."""
    return f"{kind}_{step}"


def confidence_column(name: str) -> str:
    """Return the column of the confidence p' on the perturbed input ``name``."""
    return f"{name}_p"


def kept_column(name: str) -> str:
    """Return the column that says whether the predicted class is still the top class on the input ``name``."""
    return f"{name}_kept"
