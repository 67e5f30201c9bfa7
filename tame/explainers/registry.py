"""The explanation methods by name: what each is, what it costs, and the arguments it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from tame.explainers.base import CheckedExplainer
from tame.utils.checks import InputError
from tame.utils.registry import Registry


@dataclass(frozen=True)
class Method:
    """One explanation method.

    Attributes:
        title: Its name in the field, for pictures and tables ("Grad-CAM++").
        summary: What it computes, in a few words.
        cost: Forward and backward passes per image.
        build: Builds the explainer: ``build(classifier, **arguments)``. Its keyword arguments are the method's own;
            it raises `InputError` for a classifier that it cannot explain.
        paper: Where it was published; None for controls.
        learned: Whether it needs the checkpoint of a trained attention mechanism.
        minmax_only: Whether its maps are nearly constant, so that their ranks mean nothing (two controls).
        transformers_only: Whether it reads the attention of a transformer with a class token.
    """

    title: str
    summary: str
    cost: str
    build: Callable[..., CheckedExplainer]
    paper: str | None = None
    learned: bool = False
    minmax_only: bool = False
    transformers_only: bool = False

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The method's own arguments by name."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]  # without the classifier
        return {one.name: one for one in parameters}


EXPLAINERS = Registry[Method]("method")


def check_arguments(name: str, method: Method, given: set[str]) -> None:
    """Check that a method takes these arguments.

    Raises:
        InputError: With the arguments that it takes.
    """
    known = method.arguments
    if unknown := sorted(given - known.keys()):
        takes = ", ".join(known) or "none"
        raise InputError(f"the method {name} has no argument {', '.join(unknown)}; it takes {takes}")
