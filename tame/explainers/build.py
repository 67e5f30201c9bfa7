"""Build any explanation method for a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tame.checkpoints.classifier import as_classifier
from tame.classifier import FrozenClassifier
from tame.classifier.locks import network_lock
from tame.explainers.base import CheckedExplainer, naming_cut_gradients
from tame.explainers.learned import classifier_for
from tame.explainers.registry import EXPLAINERS, Method, check_arguments, check_names
from tame.explainers.user_code import ExplainFunction, UserExplainer, load_function
from tame.presets import Preset
from tame.utils.checks import InputError

EXTERNAL = {"grad-cam": "tame.explainers.external.grad_cam", "captum": "tame.explainers.external.captum"}
"""Libraries whose methods are written LIBRARY:NAME, and the modules that adapt them."""


class MethodName(NamedTuple):
    """A method as the user writes it: ``NAME``, ``NAME@CHECKPOINT``, ``LIBRARY:NAME`` or ``package.module:function``.

    Attributes:
        name: The method without its checkpoint.
        checkpoint: Folder or file of a trained attention mechanism.
    """

    name: str
    checkpoint: str | None

    @classmethod
    def of(cls, text: str) -> MethodName:
        """Split a method's text.

        Example:
            >>> MethodName.of("ttame@runs/mine")
            MethodName(name='ttame', checkpoint='runs/mine')
        """
        name, _, checkpoint = text.partition("@")
        return cls(name, checkpoint or None)

    @property
    def external(self) -> str | None:
        """The external library that provides it; None for registered methods and the user's own code."""
        library, colon, _ = self.name.partition(":")
        return library if colon and library in EXTERNAL else None

    @property
    def registered(self) -> Method | None:
        """Its entry in `EXPLAINERS`; None for methods of external libraries and the user's own code.

        Raises:
            InputError: For an unknown name.
        """
        return None if ":" in self.name else EXPLAINERS.get(self.name)

    @property
    def learned(self) -> bool:
        """Whether it needs a trained attention mechanism."""
        return (method := self.registered) is not None and method.learned

    @property
    def title(self) -> str:
        """Its name in the field; for external libraries and the user's own code, the part after the colon."""
        known = ":" not in self.name and self.name in EXPLAINERS
        return EXPLAINERS.get(self.name).title if known else self.name.partition(":")[2] or self.name


def resolve_arguments(
    method: MethodName, preset: Preset, checkpoint: str | Path | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a method is built with: its own, and what they leave to the preset and the checkpoint.

    Args:
        method: The method.
        preset: Sets arguments that are not given.
        checkpoint: Used by a trained method that names none itself.
        arguments: The method's own arguments, which are stronger.

    Example:
        >>> from tame.presets import PRESETS
        >>> resolve_arguments(MethodName.of("rise"), PRESETS.get("released"), None, {"masks": 500})
        {'weighting': 'logit', 'masks': 500}
    """
    found = preset.method_arguments(method.name) | dict(arguments)
    named = method.checkpoint or found.get("checkpoint") or checkpoint
    return found | {"checkpoint": named} if method.learned and named else found


def build_explainer(
    classifier: FrozenClassifier | nn.Module | str | Path,
    method: str | ExplainFunction = "ttame",
    **arguments: Any,
) -> CheckedExplainer:
    """Build an explanation method for a classifier.

    Args:
        classifier: A frozen classifier, a trained network, or a name of `tame list backbones`.
        method: A name of `tame list methods` (``ttame@FOLDER`` names a checkpoint), a method of an external library
            (``grad-cam:NAME``, ``captum:NAME``), ``package.module:function``, or a function of images (B, C, H, W) in
            [0, 1] and targets (B,) that returns maps (B, h, w).
        arguments: Arguments of the method, such as ``masks=500`` of RISE; see `tame list methods`.

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
    if not isinstance(method, str):
        if not callable(method):
            raise InputError(
                f"expected a method (a name, or a function of images and targets), got {type(method).__name__}"
            )
        check_names("a method that is a function", (), arguments)
        return UserExplainer(as_classifier(classifier), method)
    asked = MethodName.of(method)
    if asked.checkpoint:
        arguments = arguments | {"checkpoint": asked.checkpoint}
    explainer = _build(asked, classifier, arguments)
    explainer.method = explainer.method or asked.name
    explainer.arguments = {**arguments, **explainer.arguments}
    return explainer


def _build(
    asked: MethodName, classifier: FrozenClassifier | nn.Module | str | Path, arguments: dict[str, Any]
) -> CheckedExplainer:
    if asked.external:
        library = import_module(EXTERNAL[asked.external])
        frozen = as_classifier(classifier)
        with network_lock(frozen.module), naming_cut_gradients(frozen):
            external: CheckedExplainer = library.build(frozen, asked.name.partition(":")[2], **arguments)
        return external
    if (known := asked.registered) is None:
        check_names(asked.name, (), arguments)
        frozen = as_classifier(classifier)
        return UserExplainer(frozen, load_function(asked.name, frozen))
    check_arguments(asked.name, known, arguments)
    frozen = classifier_for(classifier, arguments.get("checkpoint"))
    with network_lock(frozen.module), naming_cut_gradients(frozen):
        return known.build(frozen, **arguments)
