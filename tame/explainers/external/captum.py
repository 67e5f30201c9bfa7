"""Attribution methods of the library captum on any of our classifiers: ``captum:NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.explainers.base import CheckedExplainer
from tame.explainers.cams import cam_layer_of
from tame.explainers.external.explainer import ExternalExplainer
from tame.explainers.external.lookup import find_method, import_library, keyword_arguments
from tame.explainers.external.probes import ProbedNetwork, observe
from tame.explainers.registry import check_names
from tame.utils.checks import InputError
from tame.utils.devices import rows_per_pass

NAME = "captum"
INSTALL = "t-tame[captum]"

GRID = 7
"""Cells per side of the grid over the image whose cells are the features of perturbation methods."""

SAMPLES = 500
"""Perturbed images for KernelShap and Lime; the library's default, 25, is less than the number of features."""

# arguments of the library that are set here
_OURS = (
    "model", "forward_func", "layer", "device_ids", "inputs", "target", "additional_forward_args",
    "attribute_to_layer_input", "return_convergence_delta", "return_input_shape", "show_progress",
)  # fmt: skip
_QUADRATURE = "quadrature"  # the library's ``method`` of integrating gradients, which would be taken for its name
# required arguments of the library for which there is a value here
_GIVEN = {"model", "forward_func", "layer", "inputs", "target", "baselines", "sliding_window_shapes"}
_LEFT_OUT = {
    "FeaturePermutation",  # permutes features among the images of a batch
    "LayerFeaturePermutation",
    "LayerFeatureAblation",  # a pass for every element of the layer
    "LayerLRP",  # has no rule for our probe of the layer
    "ShapleyValues",  # a pass for every ordering of the features
}


def methods() -> dict[str, Any]:
    """Return the library's methods by name: those that attribute one target's logit to an image or a layer.

    Raises:
        InputError: If the library is not installed.
    """
    library = import_library("captum.attr", INSTALL)
    return {name: kind for name in library.__all__ if _usable(name, kind := getattr(library, name))}


def _usable(name: str, kind: Any) -> bool:
    """Whether a class of the library is a method, and all its required arguments can be set."""
    attribute = getattr(kind, "attribute", None)
    if name in _LEFT_OUT or not (inspect.isclass(kind) and inspect.isfunction(attribute)):
        return False
    taken = keyword_arguments(kind) | keyword_arguments(attribute)
    required = {key for key, parameter in taken.items() if parameter.default is parameter.empty}
    return {"inputs", "target"} <= taken.keys() and required <= _GIVEN


def build(classifier: FrozenClassifier, name: str, **arguments: Any) -> CheckedExplainer:
    """Build a method of the library for a classifier, see `CaptumExplainer`."""
    return CaptumExplainer(classifier, name, **arguments)


class CaptumExplainer(ExternalExplainer):
    """An attribution method of the library `captum`.

    ``map = sum_c attribution_c``, signed, of the target's logit with respect to the normalised image, (B, H, W), or,
    for methods of a layer, to the layer's output, (B, h, w). The library receives normalised images, one target per
    image, and layers with channels first, whether the classifier works on maps or tokens. Images are explained one by
    one; random numbers are seeded by the image.

    Defaults that the library does not have, or that differ from the library's:
        baselines: zero after normalisation, the mean colour.
        sliding_window_shapes, strides: an eighth of the image's sides, and half of that (Occlusion). A single number
            is the window's side in pixels.
        feature_mask: a grid of 7 x 7 cells (FeatureAblation, ShapleyValueSampling, KernelShap, Lime).
        n_samples: 500 (KernelShap, Lime).
        perturbations_per_eval, internal_batch_size: by the device; they change the maps by rounding only.

    Args:
        classifier: The classifier to explain.
        name: Name of the method in the library; case, ``-`` and ``_`` do not matter.
        layer: Layer of the methods that need one; default: the spec's CAM layer, otherwise the last feature layer.
        arguments: Arguments of the library's class and of its ``attribute`` by name; its ``method`` of integrating
            gradients is called ``quadrature``.

    Raises:
        InputError: If the library is not installed, has no such method, or the method takes no such argument or
            cannot explain this classifier; for a layer that does not exist or is no feature map.

    Source: Kokhlikyan et al., "Captum: A unified and generic model interpretability library for PyTorch", 2020.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = CaptumExplainer(FrozenClassifier(spec, net, layers=["1"]), "saliency")  # doctest: +SKIP
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape  # doctest: +SKIP
        torch.Size([2, 4, 4])
    """

    def __init__(self, classifier: FrozenClassifier, name: str, layer: str | None = None, **arguments: Any) -> None:
        super().__init__(classifier)
        known = methods()
        title = find_method(NAME, known, name)
        self.method, self.kind = f"{NAME}:{title}", known[title]
        construction, call = keyword_arguments(self.kind), keyword_arguments(self.kind.attribute)
        layered = "layer" in construction
        if layer is not None and not layered:
            raise InputError(f"{self.method} attributes to the image: expected no layer, got {layer!r}")
        if "method" in call:
            call[_QUADRATURE] = call.pop("method")
        taken = [key for key in construction | call if key not in _OURS]
        check_names(self.method, ["layer", *taken] if layered else taken, arguments)
        self.construction = {key: value for key, value in arguments.items() if key in construction}
        self.call = {key: _tuple(value) for key, value in arguments.items() if key in call}
        self.taken = call
        self.layers = observe(classifier, [cam_layer_of(classifier, layer)] if layered else [])
        self._check_activations(title)

    def explain_one(self, inputs: Tensor, target: int) -> Tensor:
        """Return the sum of the attributions over channels, (h, w), of one normalised image (1, C, H, W)."""
        network = ProbedNetwork(self.classifier, self.layers, inputs.shape[2:])
        arguments = self._arguments(inputs)
        if _QUADRATURE in arguments:
            arguments["method"] = arguments.pop(_QUADRATURE)
        method = self.kind(network, *network.probes, **self.construction)
        attributions: Tensor = method.attribute(inputs, target=target, **arguments)
        return attributions[0].sum(0)

    def _arguments(self, inputs: Tensor) -> dict[str, Any]:
        """Return the arguments of the library's ``attribute`` for a normalised image (1, C, H, W)."""
        height, width = inputs.shape[2:]
        rows = rows_per_pass(inputs.device)
        ours: dict[str, Any] = {
            "feature_mask": grid_mask(height, width).to(inputs.device),
            "perturbations_per_eval": rows,
            "internal_batch_size": rows,
        }
        if "baselines" in self.taken and self.taken["baselines"].default is inspect.Parameter.empty:
            ours["baselines"] = inputs.new_zeros(2, *inputs.shape[1:])  # DeepLiftShap wants more than one
        if self.kind.__name__ in ("KernelShap", "Lime"):
            ours["n_samples"] = SAMPLES
        arguments = {key: value for key, value in ours.items() if key in self.taken} | self.call
        if "sliding_window_shapes" in self.taken:
            arguments |= _windows(arguments, *inputs.shape[1:])
        return arguments

    def _check_activations(self, title: str) -> None:
        """Check that a method that changes the gradients of activations finds some; otherwise it changes nothing."""
        changed: tuple[type[nn.Module], ...] = ()
        if title in ("GuidedBackprop", "Deconvolution", "GuidedGradCam"):
            changed = (nn.ReLU,)
        elif "DeepLift" in title:
            changed = tuple(import_library("captum.attr._core.deep_lift", INSTALL).SUPPORTED_NON_LINEAR)
        if changed and not any(isinstance(part, changed) for part in self.classifier.module.modules()):
            raise InputError(
                f"{self.method} changes the gradients of {', '.join(kind.__name__ for kind in changed)}: expected a "
                f"classifier with such layers, got {self.classifier.spec.name} without any"
            )


def grid_mask(height: int, width: int) -> Tensor:
    """Return the number of the feature that each pixel belongs to, (1, 1, H, W): cells of a grid.

    Example:
        >>> grid_mask(14, 7)[0, 0, ::2, 0]
        tensor([ 0,  7, 14, 21, 28, 35, 42])
    """
    rows, columns = (torch.arange(side) * GRID // side for side in (height, width))
    return (rows.unsqueeze(1) * GRID + columns)[None, None]


def _windows(arguments: Mapping[str, Any], channels: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return window and strides of Occlusion, each (C, h, w), of arguments that may lack them or name one side."""

    def complete(value: Any) -> tuple[int, ...]:
        sides = (value, value) if isinstance(value, int) else tuple(value)
        return (channels, *sides) if len(sides) == 2 else sides

    window = complete(arguments.get("sliding_window_shapes") or (max(1, height // 8), max(1, width // 8)))
    strides = complete(arguments.get("strides") or [max(1, side // 2) for side in window[1:]])
    return {"sliding_window_shapes": window, "strides": strides}


def _tuple(value: Any) -> Any:
    """Return a list, from a file or the command line, as the tuple that the library expects."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
