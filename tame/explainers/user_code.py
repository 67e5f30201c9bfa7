"""The user's own explanation methods: functions, passed directly or named ``package.module:function``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.utils.checks import InputError
from tame.utils.imports import import_function, running
from tame.utils.threads import process_lock

ExplainFunction = Callable[[Tensor, Tensor], Tensor]
"""From images (B, C, H, W) in [0, 1] and targets (B,) to maps (B, h, w)."""

_RUNNING = process_lock()  # functions may hook any network: theirs, or that of a classifier


class UserExplainer(CheckedExplainer):
    """A function as an explainer; its maps are checked.

    Args:
        classifier: The classifier to explain.
        function: Returns maps (B, h, w) of images (B, C, H, W) in [0, 1] and targets (B,).
    """

    def __init__(self, classifier: FrozenClassifier, function: ExplainFunction) -> None:
        super().__init__(classifier)
        self.function = function

    @property
    def name(self) -> str:
        """Its name in files: ``package.module:function`` if it was named so, otherwise the function's own."""
        return self.method or function_name(self.function)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run the block while no other function of a user runs, nor anything else on this network."""
        with _RUNNING, super().alone():
            yield

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps of the function, which may compute gradients.

        Raises:
            InputError: If a function that was named fails; one that was passed raises its own error.
        """
        with torch.inference_mode(False), torch.enable_grad():
            images, targets = images.clone(), targets.clone()  # inference tensors cannot enter a graph
            with running(self.method) if self.method else nullcontext():
                return self.function(images, targets)


def function_name(function: ExplainFunction) -> str:
    """Return the name of a function; of a callable object, that of its class."""
    return str(getattr(function, "__name__", type(function).__name__))


def load_function(name: str, classifier: FrozenClassifier) -> ExplainFunction:
    """Import ``package.module:function``, also from the working folder.

    The function takes (images, targets) and returns maps, or takes the classifier alone and returns such a function.

    Raises:
        InputError: If it cannot be imported, takes other arguments, or fails.
    """
    found = import_function(name, "method")
    count = _required(found)
    if count not in (1, 2):
        raise InputError(
            f"expected {name} to take (images, targets), or the classifier alone; it needs {count} arguments"
        )
    with running(name):
        function = found if count == 2 else found(classifier)
    if not callable(function):
        raise InputError(
            f"expected {name} to return a function of (images, targets) for a classifier, got {type(function).__name__}"
        )
    return function


def _required(function: Any) -> int:
    """Return the number of required positional arguments; 0 for an object that cannot be called."""
    if not callable(function):
        return 0
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, without a signature
        return 0
    return sum(one.kind in by_position and one.default is one.empty for one in parameters)
