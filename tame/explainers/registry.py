"""The explanation methods by name: what each computes, what it costs and which arguments it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

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
        build: Builds the explainer: ``build(classifier, **arguments)``. Its keyword arguments are those of the method;
            it raises `InputError` for a classifier that it cannot explain.
        paper: Where it was published; None for controls.
        control: Whether it is a control: its maps say nothing about the classifier, and it competes with no method.
        learned: Whether it needs the checkpoint of a trained attention mechanism.
        minmax_only: Whether its maps are nearly constant, so that their rank scaling is meaningless (two controls).
        transformers_only: Whether it reads the attention of a transformer with a class token.
    """

    title: str
    summary: str
    cost: str
    build: Callable[..., CheckedExplainer]
    paper: str | None = None
    control: bool = False
    learned: bool = False
    minmax_only: bool = False
    transformers_only: bool = False

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The method's own arguments by name."""
        parameters = list(inspect.signature(self.build).parameters.values())[1:]  # without the classifier
        return {parameter.name: parameter for parameter in parameters}


EXPLAINERS = Registry[Method]("method")


def check_arguments(name: str, method: Method, given: Iterable[str]) -> None:
    """Check that a method takes the given arguments.

    Raises:
        InputError: For an unknown argument, with the nearest and all known ones.

    Example:
        >>> check_arguments("rise", EXPLAINERS.get("rise"), ["mask"])
        Traceback (most recent call last):
        tame.utils.checks.InputError: rise takes no argument 'mask'; did you mean 'masks'? It takes masks, ...
    """
    check_names(name, method.arguments, given)


def check_names(taker: str, known: Iterable[str], given: Iterable[str]) -> None:
    """Check the names of arguments.

    Args:
        taker: What takes them, for the message.
        known: Arguments that it takes.
        given: Arguments that it is given.

    Raises:
        InputError: For an unknown argument, with the nearest and all known ones.
    """
    known = list(known)
    for name in sorted(set(given) - set(known)):
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}? It takes " if near else "; it takes "
        raise InputError(f"{taker} takes no argument {name!r}{hint}{', '.join(known) or 'no arguments'}")
