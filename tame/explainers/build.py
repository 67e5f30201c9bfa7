"""Build any explanation method for a classifier."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from tame.checkpoints.classifier import as_classifier
from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method, check_arguments
from tame.explainers.user_code import UserExplainer, load_function
from tame.utils.checks import InputError

_EXTERNAL = {"grad-cam": "tame.explainers.external.grad_cam", "captum": "tame.explainers.external.captum"}
"""Libraries whose methods are written LIBRARY:NAME, and the modules that adapt them."""


class MethodName(NamedTuple):
    """A method as it is written: ``NAME``, ``NAME@CHECKPOINT``, ``LIBRARY:NAME`` or ``package.module:function``."""

    name: str
    checkpoint: str | None

    @classmethod
    def of(cls, text: str) -> MethodName:
        """Read a method as it is written.

        Example:
            >>> MethodName.of("ttame@runs/mine")
            MethodName(name='ttame', checkpoint='runs/mine')
        """
        name, _, checkpoint = text.partition("@")
        return cls(name, checkpoint or None)

    @property
    def external(self) -> str | None:
        """The library that it is a method of, None for one of ours or of the user's own code."""
        library, colon, _ = self.name.partition(":")
        return library if colon and library in _EXTERNAL else None

    @property
    def registered(self) -> Method | None:
        """What is known of a method of ours; None for those of libraries and of the user's own code.

        Raises:
            InputError: For an unknown name.
        """
        return None if ":" in self.name else EXPLAINERS.get(self.name)

    @property
    def learned(self) -> bool:
        """Whether it explains by a trained attention mechanism."""
        return (method := self.registered) is not None and method.learned

    @property
    def title(self) -> str:
        """Its name in the field: that of the registry, else as it is written."""
        known = ":" not in self.name and self.name in EXPLAINERS
        return EXPLAINERS.get(self.name).title if known else self.name.partition(":")[2] or self.name


def build_explainer(
    classifier: FrozenClassifier | nn.Module | str | Path,
    method: str | Callable[[Tensor, Tensor], Tensor] = "ttame",
    **arguments: Any,
) -> CheckedExplainer:
    """Build an explanation method for a classifier.

    Args:
        classifier: A frozen classifier, a trained network, or a name of `tame list backbones`.
        method: A name of `tame list methods` (``ttame@FOLDER`` names a checkpoint), ``grad-cam:NAME`` or
            ``captum:NAME`` of these libraries, ``package.module:function``, or a function of images (B, C, H, W) in
            [0, 1] and targets (B,) that returns maps (B, h, w).
        arguments: The method's own, such as ``masks=500`` of RISE, see `tame list methods`.

    Returns:
        The explainer: images (B, C, H, W) in [0, 1] and targets (B,) -> unscaled maps (B, h, w).

    Raises:
        InputError: For an unknown method, an argument that it does not take, or a classifier that it cannot explain.

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> explainer = build_explainer(resnet18(), "rise", masks=2)
        >>> explainer(torch.rand(1, 3, 224, 224), torch.tensor([281])).shape
        torch.Size([1, 224, 224])
    """
    classifier = as_classifier(classifier)
    if not isinstance(method, str):
        if arguments:
            raise InputError(f"a function takes no arguments of a method, got {', '.join(sorted(arguments))}")
        return UserExplainer(classifier, method)
    asked = MethodName.of(method)
    if asked.checkpoint:
        arguments = {"checkpoint": asked.checkpoint} | arguments
    explainer = _build(asked, classifier, arguments)
    explainer.method, explainer.arguments = asked.name, arguments
    return explainer


def _build(asked: MethodName, classifier: FrozenClassifier, arguments: dict[str, Any]) -> CheckedExplainer:
    if asked.external:
        library = import_module(_EXTERNAL[asked.external])
        external: CheckedExplainer = library.build(classifier, asked.name.partition(":")[2], **arguments)
        return external
    if (known := asked.registered) is None:
        if arguments:
            raise InputError(f"{asked.name} is called as it is, got {', '.join(sorted(arguments))}")
        return UserExplainer(classifier, load_function(asked.name, classifier))
    check_arguments(asked.name, known, set(arguments))
    return known.build(classifier, **arguments)
