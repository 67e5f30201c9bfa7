"""The network of a Lightning module that a callback explains, and the images of its batches."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.outputs import with_output
from tame.classifier.probing.proposal import propose_layers
from tame.data.user_images import IMAGE_KEYS, images_and_labels, undo_normalisation
from tame.explainers import build_explainer
from tame.explainers.user_code import ExplainFunction
from tame.types import Explainer
from tame.utils.checks import InputError, check_images
from tame.utils.threads import random_state


class ExplainingCallback(Callback):
    """Base of callbacks that explain the classifier of a Lightning module; all of them take these arguments.

    - With a ``spec``: any module that trains or uses a classifier. The network is copied, in float32 and without its
      forward and backward hooks, and the copy is explained: the training is the same, bit for bit.
    - Without: a module with an attribute ``classifier`` (a `FrozenClassifier`), a method ``explain_batch(images,
      targets)`` that returns unscaled maps (B, h, w), and batches with ``image`` in [0, 1].

    Args:
        spec: Description of the user's classifier: mean and std, image size, class names, tokens, CAM layer; its
            ``build`` and weights are not used. None for a module that explains itself.
        network: The user's classifier: its path in the module (``model``, ``parts.net``; an empty path is the module
            itself), or the network. It takes normalised images and returns logits (B, K).
        method: Explanation method for that classifier, see `tame list methods`, or a function.
        normalised: Whether the batches are normalised by the mean and std of the spec; otherwise they are in [0, 1].
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1]; default: batches are ``(images,
            labels)``, or dicts with ``image`` and ``label``.

    Raises:
        InputError: When a run starts, for a module, network, spec or method that cannot explain; later, for batches
            that are not as described and weights that are not finite.
    """

    explained_spec: BackboneSpec
    """Spec of the classifier that is explained, from `setup` on."""

    def __init__(
        self,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str | ExplainFunction = "gradcam",
        *,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if not isinstance(spec, BackboneSpec | None):
            raise InputError(f"expected spec, a tame.BackboneSpec or None, got {type(spec).__name__}")
        self.spec = spec
        self.network = network
        self.method = method
        self.normalised = normalised
        self.images_of = images_of
        self._layers: tuple[str, ...] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a classifier and that it can be explained, before any work."""
        module: Any = pl_module
        if self.spec is None:
            explains = callable(getattr(module, "explain_batch", None))
            if not (explains and isinstance(getattr(module, "classifier", None), FrozenClassifier)):
                raise InputError(
                    f"expected a spec of the classifier, as in {type(self).__name__}(spec, network='model'), or a "
                    "module with a FrozenClassifier as .classifier and explain_batch(images, targets), got no spec and "
                    f"{type(module).__name__}"
                )
            self.explained_spec = module.classifier.spec
            return
        self.explained_spec = spec = self.spec
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            strategy = type(trainer.strategy).__name__
            raise InputError(f"expected a strategy that leaves the network whole, such as ddp, got {strategy}")
        network = find_network(module, self.network)
        with leave_no_trace(torch.device("cpu")):
            copied = with_output(spec, detached_copy(network).cpu().eval())
            named = (spec.cam_layer,) if spec.cam_layer else ()
            self._layers = spec.layers.get("proposed") or named or propose_layers(spec, copied)
            self._explainer(copied)

    def explained(self, pl_module: LightningModule) -> tuple[FrozenClassifier, Explainer]:
        """Return the classifier and its explainer: those of the module, or of a copy of the network as it is now."""
        module: Any = pl_module  # checked in setup
        if self.spec is None:
            return module.classifier, module.explain_batch
        return self._explainer(detached_copy(find_network(pl_module, self.network)))

    def read(self, batch: Any) -> tuple[Tensor, Any]:
        """Return copies of a batch's images (B, C, H, W) in [0, 1], and its labels, None where it has none.

        Raises:
            InputError: For a batch that is not as described.
        """
        images, labels = images_and_labels(batch)
        images = self.images_of(batch) if self.images_of else images
        if not isinstance(images, Tensor):
            raise InputError(
                f"expected batches (images, labels) or dicts with one of {', '.join(IMAGE_KEYS)}, "
                f"got {type(batch).__name__}; use images_of=..., a function of the batch"
            )
        spec, pixels = self.explained_spec, self.explained_spec.preprocessing
        images = images.detach().clone()
        if self.spec and self.normalised and not self.images_of:
            otherwise = "correct the spec, or use normalised=False or images_of=..."
            images = undo_normalisation(images, pixels, spec.name, otherwise)
        check_images(images, pixels.channels)
        return images.float(), labels

    def _explainer(self, network: nn.Module) -> tuple[FrozenClassifier, Explainer]:
        classifier = FrozenClassifier(self.explained_spec, network, self._layers)
        return classifier, build_explainer(classifier, self.method)


def find_network(pl_module: nn.Module, network: str | nn.Module) -> nn.Module:
    """Return the network at a path in the module, or the given network; of a compiled network, the original.

    Raises:
        InputError: If there is no network, naming the module's parts.
    """
    found = network
    if isinstance(network, str):
        try:
            found = pl_module.get_submodule(network)
        except AttributeError as error:
            parts = ", ".join(name for name, _ in pl_module.named_children()) or "none"
            raise InputError(
                f"expected the path of a network in {type(pl_module).__name__}, got {network!r}; its parts: {parts}"
            ) from error
    if not isinstance(found, nn.Module):
        raise InputError(f"expected network, a path or a module, got {type(found).__name__}")
    return getattr(found, "_orig_mod", found)


def detached_copy(network: nn.Module) -> nn.Module:
    """Return a float32 copy without forward and backward hooks, which belong to the training and not to the copy.

    Raises:
        InputError: If a weight is not finite.
    """
    memo: dict[int, Any] = {}  # replacements in the copy, see copy.deepcopy
    for name, weight in network.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"expected finite weights to explain, got NaN or infinity in {name}: training diverged")
    for part in network.modules():
        hooks = (part._forward_hooks, part._backward_hooks, part._backward_pre_hooks)
        memo |= {id(each): OrderedDict() for each in hooks}
        # tensors with a graph, such as features that were kept, cannot be copied
        memo |= {id(value): value.detach().clone() for value in vars(part).values() if isinstance(value, Tensor)}
    return copy.deepcopy(network, memo).float()


@contextmanager
def leave_no_trace(device: torch.device) -> Iterator[None]:
    """Restore the random state and cuDNN's settings afterwards; copies made here can be differentiated."""
    cudnn = torch.backends.cudnn
    devices = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.no_grad(), random_state(devices=devices):
        before = cudnn.benchmark, cudnn.deterministic
        try:
            cudnn.benchmark, cudnn.deterministic = False, True  # a classifier's feature layers are compared bit by bit
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before
