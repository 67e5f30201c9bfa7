"""Explain one image or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tame.checkpoints.classifier import DEFAULT_BACKBONE
from tame.classifier import FrozenClassifier
from tame.classifier.shared import shares_tensors
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import MethodName
from tame.explainers.user_code import ExplainFunction
from tame.inference.batch import NamedExplainer, explain_batch
from tame.inference.build import (
    Backbone,
    Classifier,
    MethodRequest,
    build_explainers,
    check_checkpoint_is_used,
    check_loading,
    default_method,
)
from tame.inference.inputs import Inputs, OneImage, SeveralImages, Targets
from tame.inference.kept import LastBuilt
from tame.inference.result import Explanation
from tame.presets import PRESETS, Preset
from tame.types import DeviceName
from tame.utils.checks import InputError
from tame.utils.imports import import_function

_last = LastBuilt[NamedExplainer]()


@overload
def explain(
    image: str | Path | Image.Image, classifier: Classifier | None = ..., target: Targets = ..., **arguments: Any
) -> Explanation: ...
@overload
def explain(
    image: DataLoader[Any] | Dataset[Any] | Sequence[OneImage],
    classifier: Classifier | None = ...,
    target: Targets = ...,
    **arguments: Any,
) -> list[Explanation]: ...
@overload
def explain(
    image: np.ndarray | Tensor, classifier: Classifier | None = ..., target: Targets = ..., **arguments: Any
) -> Any: ...
def explain(
    image: OneImage | SeveralImages,
    classifier: FrozenClassifier | nn.Module | str | Path | None = None,
    target: Targets = None,
    *,
    normalised: bool = False,
    channels: Sequence[int] | None = None,
    method: str | ExplainFunction | CheckedExplainer | None = None,
    checkpoint: str | Path | None = None,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    preset: str = "tame",
    device: DeviceName = "auto",
    **arguments: Any,
) -> Explanation | list[Explanation]:
    """Explain one image, or each of several.

    The classifier and the explainer of the last call are kept for the next one with the same arguments. Several threads
    may call it at once: one explanation of a network is computed at a time, and so are, in the whole process, those of
    functions and of external libraries. A function must not wait for threads that explain or run the same classifier.

    Args:
        image: File, PIL image, or array (C, H, W), (H, W, C) or (H, W) of uint8, or of floats in [0, 1]; or several: a
            list of these, a batch (B, C, H, W), a Dataset or a DataLoader. A tensor of floats (C, H, W) of the
            classifier's input size is shown to it as it is; everything else is resized and cropped.
        classifier: A trained network, a frozen classifier, or what `tame.load_classifier` takes as ``backbone``;
            default: that of the checkpoint, otherwise efficientnet_lite0.
        target: Class to explain, index or name, or one for each image; default: the predicted classes.
        normalised: Whether tensors of floats are normalised by the classifier's mean and std.
        channels: Channels of tensors that are drawn as red, green and blue, or one as grey; default: the first three,
            of fewer the first.
        method: A name of `tame list methods` (``ttame@FOLDER`` names a checkpoint), ``grad-cam:NAME``,
            ``package.module:function``, a function of images and targets that returns maps, or a built explainer;
            default: T-TAME with a checkpoint or a shipped one, otherwise Grad-CAM.
        checkpoint: Trained attention mechanism, a folder or file; default: the one that is shipped for the backbone.
        weights: Name of published weights, path of a state_dict, or "random"; default: the first published ones.
        layers: Feature layers: a layer set (paper, released, proposed) or module names; default: those of the
            checkpoint, otherwise of the preset.
        preset: paper, released or tame.
        device: auto (CUDA where there is one, otherwise the CPU), cpu, cuda or mps. A classifier that is loaded already
            is moved only to a named device.
        arguments: Arguments of the method, such as ``masks=500`` of RISE.

    Returns:
        The explanation, which notebooks display as an overlay; of several images a list.

    Raises:
        InputError: For an image, a class or a setting that cannot be used.

    Example:
        >>> from torchvision.models import resnet18
        >>> image = np.zeros((300, 400, 3), np.uint8)
        >>> explain(image, resnet18(), target=281, method="gradcam").map.shape
        (7, 7)
        >>> [one.target for one in explain([image, image], resnet18(), target=[281, 285], method="gradcam")]
        [281, 285]
    """
    inputs = Inputs(image, normalised, channels)
    loading = check_loading({"weights": weights, "layers": layers, "device": device})
    chosen = PRESETS.get(preset)
    if isinstance(method, CheckedExplainer):
        _check_built(method, classifier, {"checkpoint": checkpoint, **loading, **arguments})
        by = NamedExplainer(method.classifier, method, method.name, chosen.name)
    else:
        sources = [_file(classifier), _file(checkpoint), loading, _file(weights), preset, _code(method), arguments]
        by = _last.get(sources, lambda: _build(classifier, method, checkpoint, loading, chosen, arguments))
    explained = [
        of_image[0][0]
        for batch, classes in inputs.batches(by.classifier.spec, target)
        for of_image in explain_batch([[one] for one in batch], [by], classes)
    ]
    return explained[0] if inputs.one else explained


def _build(
    classifier: Classifier | None,
    method: str | ExplainFunction | None,
    checkpoint: str | Path | None,
    loading: Mapping[str, Any],
    preset: Preset,
    arguments: Mapping[str, Any],
) -> NamedExplainer:
    if isinstance(method, str):
        MethodName.of(method).registered  # noqa: B018 - an unknown name is refused before the backbone is looked at
    written = MethodName.of(method or "ttame") if method is None or isinstance(method, str) else None
    learned = (written.checkpoint or checkpoint) if written and written.learned else None
    backbone = Backbone.of(classifier, loading, learned)
    method = method or default_method(backbone, checkpoint)
    request = MethodRequest.of(method, backbone.spec, preset, checkpoint, arguments)
    check_checkpoint_is_used(checkpoint, [request])
    (by,) = build_explainers(backbone, [request], preset)
    return by


def _check_built(explainer: CheckedExplainer, classifier: Classifier | None, others: Mapping[str, Any]) -> None:
    """Check that nothing contradicts an explainer that is built already."""
    own = explainer.classifier
    if isinstance(classifier, nn.Module):
        network = classifier.module if isinstance(classifier, FrozenClassifier) else classifier
        same = any(network is part for part in own.modules()) or shares_tensors(network, own.module)
    else:
        same = classifier is None or str(classifier) in (DEFAULT_BACKBONE, own.spec.name)
    if not same:
        name = type(classifier).__name__ if isinstance(classifier, nn.Module) else classifier
        raise InputError(f"expected the classifier of the built explainer, {own.spec.name}, or none, got {name}")
    refused = sorted(
        name for name, value in others.items() if value is not None and (name, value) != ("device", "auto")
    )
    if refused:
        raise InputError(f"expected no {', '.join(refused)} beside a built explainer: it has its own")


def _file(source: object) -> object:
    """Return a source that may be a file or folder as a path, so that changes of its content are noticed."""
    return Path(source) if isinstance(source, str) else source


def _code(method: str | ExplainFunction | None) -> object:
    """Return a method with its checkpoint and code, so that changes of these are noticed."""
    if not isinstance(method, str):
        return method
    written = MethodName.of(method)
    own_code = ":" in written.name and not written.external
    return method, _file(written.checkpoint), import_function(written.name, "method") if own_code else None
