"""Any method of the library grad-cam on any of our classifiers: ``grad-cam:NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tame.classifier import FrozenClassifier
from tame.classifier.gradients import as_map
from tame.explainers.base import CheckedExplainer
from tame.explainers.cams import cam_layer_of, check_positions
from tame.explainers.external.explainer import ExternalExplainer
from tame.explainers.external.isolation import isolated
from tame.explainers.external.lookup import find_method, import_library, keyword_arguments
from tame.explainers.external.probes import ProbedNetwork, observe
from tame.explainers.registry import check_names
from tame.utils.checks import InputError
from tame.utils.threads import silenced

NAME = "grad-cam"

# arguments of the library that are set here
_OURS = ("model", "target_layers", "reshape_transform", "input_tensor", "targets", "target_idx")


def methods() -> dict[str, Any]:
    """Return the library's methods by name.

    Raises:
        InputError: If the library is not installed.

    Example:
        >>> "HiResCAM" in methods()
        True
    """
    library = import_library("pytorch_grad_cam", NAME)
    return {
        name: kind
        for name, kind in vars(library).items()
        if inspect.isclass(kind) and hasattr(kind, "forward") and "target_layers" in inspect.signature(kind).parameters
    }


def build(classifier: FrozenClassifier, name: str, **arguments: Any) -> CheckedExplainer:
    """Build a method of the library for a classifier, see `LibraryCAM`."""
    return LibraryCAM(classifier, name, **arguments)


class LibraryCAM(ExternalExplainer):
    """A method of the library `grad-cam` (pytorch-grad-cam).

    The library receives normalised images, one target per image, and a target layer with channels first, whether the
    classifier works on maps or tokens. Images are explained one by one, because several of its methods mix the images
    of a batch; random numbers are seeded by the image. Its progress bars and warnings are not shown.

    Maps are the library's before it scales them to [0, 1] and upsamples them: not negative, (B, h, w) in the size of
    the target layer, for FullGrad and SESS (B, H, W). Only RefineCAM, and every method with ``aug_smooth``, returns
    maps (B, H, W) that the library has scaled to [0, 1].

    FinerCAM compares the target with the classes of the nearest logits. FullGrad reads every convolution and batch
    normalisation with a bias. RefineCAM multiplies the maps of several layers, by default of all feature layers.

    Args:
        classifier: The classifier to explain.
        name: Name of the method in the library; case, ``-`` and ``_`` do not matter.
        layer: Target layer; default: the spec's CAM layer, otherwise the last feature layer.
        arguments: Arguments of the library's class (``kernel`` of KPCA_CAM) and of its call (``eigen_smooth``) by
            name; ``base_method`` may be the name of another method.

    Raises:
        InputError: If the library is not installed, has no such method, or the method takes no such argument; for a
            layer that does not exist, is no feature map, or does not reach the logits.

    Source: J. Gildenblat and contributors, "PyTorch library for CAM methods", https://github.com/jacobgil/pytorch-grad-cam.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = LibraryCAM(FrozenClassifier(spec, net, layers=["1"]), "hirescam")
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4, 4])
    """

    def __init__(self, classifier: FrozenClassifier, name: str, layer: str | None = None, **arguments: Any) -> None:
        super().__init__(classifier)
        known = methods()
        title = find_method(NAME, known, name)
        self.method, self.kind = f"{NAME}:{title}", known[title]
        if isinstance(base := arguments.get("base_method"), str):
            arguments |= {"base_method": known[find_method(NAME, known, base)]}
        construction = keyword_arguments(self.kind, _OURS)
        call = keyword_arguments(self.kind.__call__, _OURS) | keyword_arguments(self.kind.forward, _OURS)
        check_names(self.method, dict.fromkeys(["layer", *construction, *call]), arguments)
        self.construction = {key: value for key, value in arguments.items() if key in construction}
        self.call = {key: value for key, value in arguments.items() if key not in construction}
        self.layers = observe(classifier, self._choose_layers(title, layer))
        self._check()

    def explain_one(self, inputs: Tensor, target: int) -> Tensor:
        """Return the map (h, w) of one normalised image (1, C, H, W)."""
        with silenced():  # progress bars and warnings
            cam = self._construct(inputs)
            with _recorded(cam) as unscaled:
                scaled = self._run(cam, inputs, target)
        maps = np.asarray(scaled if self.call.get("aug_smooth") or not unscaled else unscaled[-1])
        maps = np.maximum(maps.reshape(maps.shape[-2:]), 0)  # the library's ReLU comes before its scaling
        return torch.from_numpy(maps).to(inputs)

    def _run(self, cam: Any, inputs: Tensor, target: int) -> np.ndarray:
        """Return what the library's object returns for one normalised image (1, C, H, W)."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        kernels = sdpa_kernel(SDPBackend.MATH) if _second_derivatives(cam) else nullcontext()  # others have first only
        with torch.set_grad_enabled(_bases(cam)[0].uses_gradients), kernels:
            if "target_idx" in keyword_arguments(self.kind.forward):  # FinerCAM compares the target with other classes
                return cam(inputs, None, target_idx=target, **self.call)
            return cam(inputs, [ClassifierOutputTarget(target)], **self.call)

    def _construct(self, inputs: Tensor) -> Any:
        """Return the library's object for a normalised image (1, C, H, W), with its hooks on new probes."""
        construction, size, reshape = dict(self.construction), inputs.shape[2:], None
        raw = "ablation_layer" in keyword_arguments(self.kind)  # it replaces the layer's own output
        if raw:
            from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

            (seen,) = self.layers.values()
            construction.setdefault("ablation_layer", AblationLayerVit() if seen.last else AblationLayer())
            reshape = partial(as_map, self.classifier, size=size)
        network = ProbedNetwork(self.classifier, self.layers, size, raw)
        cam = self.kind(network, network.probes, reshape, **construction)
        if _second_derivatives(cam):  # they need a graph through the weights
            network.requires_grad_()
        return cam

    def _choose_layers(self, title: str, layer: str | None) -> Sequence[str]:
        if title == "FullGrad":
            if layer is not None:
                raise InputError(f"{self.method} reads all layers that have a bias: expected no layer, got {layer!r}")
            return ()
        if title == "RefineCAM" and layer is None:
            return self.classifier.layers
        return (cam_layer_of(self.classifier, layer),)

    def _check(self) -> None:
        """Find out now whether the arguments fit, and whether positions of the layer reach the logits."""
        image = torch.zeros(self.classifier.spec.preprocessing.shape, device=self.classifier.mean.device)
        with isolated(self.classifier.module, image), self.refusals():
            gradients = _bases(self._construct(image.unsqueeze(0)))[0].uses_gradients
        for layer in self.layers if gradients else ():
            check_positions(self.classifier, layer)


def _bases(cam: Any) -> list[Any]:
    """Return the plain CAMs that a method of the library is built upon: itself, or those inside."""
    if hasattr(cam, "base_cam_per_layer"):
        return list(cam.base_cam_per_layer)
    return [getattr(cam, "base_cam", cam)]


def _second_derivatives(cam: Any) -> bool:
    """Whether a method of the library differentiates gradients (ShapleyCAM)."""
    return not getattr(_bases(cam)[0], "detach", True)


@contextmanager
def _recorded(cam: Any) -> Iterator[list[Any]]:
    """Yield a list that fills with the maps of a library's object before they are scaled; none of RefineCAM."""
    owner, name = _computes_map(cam)
    unscaled: list[Any] = []
    original: Any = getattr(owner, name, None)

    def record(*args: Any, **kwargs: Any) -> Any:
        unscaled.append(original(*args, **kwargs))
        return unscaled[-1]

    if original is not None:
        setattr(owner, name, record)
    try:
        yield unscaled
    finally:
        vars(owner).pop(name, None)
        for base in _bases(cam):  # the library detaches them in place, which fails for views
            base.activations_and_grads.activations, base.activations_and_grads.gradients = [], []


def _computes_map(cam: Any) -> tuple[Any, str]:
    """Return the object and the name of its method that computes the map before it is scaled."""
    from pytorch_grad_cam.base_cam import BaseCAM

    if hasattr(cam, "base_cam_per_layer"):  # RefineCAM multiplies scaled maps
        return cam, ""
    if hasattr(cam, "forward_single_image"):  # SESS
        return cam, "forward_single_image"
    (base,) = _bases(cam)
    whole = type(base).compute_cam_per_layer is not BaseCAM.compute_cam_per_layer  # FullGrad
    return base, "compute_cam_per_layer" if whole else "get_cam_image"
