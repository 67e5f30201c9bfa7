"""Pictures of explanations in any Lightning run."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from PIL import Image
from torch import Tensor, nn

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.outputs import with_output
from tame.classifier.probing.proposal import propose_layers
from tame.data import array_to_photo
from tame.explainers import build_explainer
from tame.functional.masking import drawable
from tame.functional.scores import scores
from tame.types import Explainer
from tame.utils.checks import InputError, check_images
from tame.utils.io import replacing
from tame.visualize import grid, overlay

_IMAGES, _LABELS = ("image", "images", "pixel_values"), ("label", "labels", "target", "targets")  # keys of batches
_SIDE = 200  # side of one picture in pixels
_OVERSHOOT = 0.25  # resizing and augmentation leave [0, 1] by at most so much; a wrong mean or std by more


class _Seen(NamedTuple):
    """Images (B, C, H, W) in [0, 1] and their labels, -1 where unknown."""

    images: Tensor
    labels: list[int]


class ExplanationLogger(Callback):
    """Draws the first images of validation and test with explanations of their predicted classes.

    Images are above and overlays below, with the predicted class, its confidence and the label as titles. The picture
    is written to ``explanations/val-epoch=3-step=120.png`` in the run's folder, and logged as ``val/explanations`` to
    TensorBoard, Weights & Biases and MLflow. The sanity check draws nothing, but refuses batches that cannot be drawn.
    Only the main process (rank 0) draws, and only images of the first loader. If an explanation fails, its error ends
    the run.

    - With a ``spec``: any module that trains a classifier. Each drawing copies the network, in float32 and without
      its forward and backward hooks, and explains the copy: the training is the same, bit for bit.
    - Without: a module with an attribute ``classifier`` (a `FrozenClassifier`), a method ``explain_batch(images,
      targets)`` that returns unscaled maps (B, h, w), and batches with ``image`` in [0, 1].

    Args:
        spec: Description of the user's classifier: mean and std, image size, class names, tokens, CAM layer; its
            ``build`` and weights are not used. None for a module that explains itself.
        network: The user's classifier: its path in the module (``model``, ``parts.net``; an empty path is the module
            itself), or the network. It takes normalised images and returns logits (B, K).
        method: Explanation method for that classifier, see `tame list methods`.
        n: Number of images.
        every_n_epochs: During training, draw the first of so many validations; other runs always draw.
        normalised: Whether the batches are normalised by the mean and std of the spec; otherwise they are in [0, 1].
        images_of: Function that returns a batch's images (B, C, H, W) in [0, 1]; default: batches are ``(images,
            labels)``, or dicts with ``image`` and ``label``.

    Raises:
        InputError: For an ``n`` or ``every_n_epochs`` below 1; when a run starts, for a module, network, spec or
            method that cannot explain; later, for batches that cannot be drawn and weights that are not finite.
    """

    _explained: BackboneSpec  # spec of the classifier that is explained

    def __init__(
        self,
        spec: BackboneSpec | None = None,
        network: str | nn.Module = "model",
        method: str = "gradcam",
        n: int = 8,
        every_n_epochs: int = 1,
        normalised: bool = True,
        images_of: Callable[[Any], Tensor] | None = None,
    ) -> None:
        for name, value in (("n", n), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise InputError(f"expected {name} of 1 or more, got {value}")
        self.spec = spec
        self.network = network
        self.method = method
        self.n = n
        self.every_n_epochs = every_n_epochs
        self.normalised = normalised
        self.images_of = images_of
        self._layers: tuple[str, ...] = ()
        self._validations = 0  # number of validations during training, without the sanity check
        self._due = False
        self._seen: list[_Seen] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a classifier and that it can be explained, before any work."""
        module: Any = pl_module
        if self.spec is None:
            explains = callable(getattr(module, "explain_batch", None))
            if not (explains and isinstance(getattr(module, "classifier", None), FrozenClassifier)):
                raise InputError(
                    "expected a spec of the classifier, or a module with a FrozenClassifier as .classifier and "
                    f"explain_batch(images, targets), got no spec and {type(module).__name__}"
                )
            self._explained = module.classifier.spec
            return
        self._explained = spec = self.spec
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            strategy = type(trainer.strategy).__name__
            raise InputError(f"expected a strategy that leaves the network whole, such as ddp, got {strategy}")
        pixels = spec.preprocessing
        if pixels.channels not in (1, 3):
            raise InputError(f"expected a spec of 1 or 3 channels to draw, got {pixels.channels} of {spec.name}")
        network = find_network(module, self.network)
        with _leave_no_trace(torch.device("cpu")):
            copied = with_output(spec, detached_copy(network).cpu().eval())
            named = (spec.cam_layer,) if spec.cam_layer else ()
            self._layers = spec.layers.get("proposed") or named or propose_layers(spec, copied)
            self._explainer(copied)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether to draw this validation."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._seen, self._due = [], not fitting or self._validations % self.every_n_epochs == 0
        self._validations += fitting

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard images of earlier runs."""
        self._seen, self._due = [], True

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the batch's images while fewer than ``n`` are kept."""
        missing = self.n - sum(len(seen.images) for seen in self._seen)
        if self._due and missing > 0 and dataloader_idx == 0 and trainer.is_global_zero:
            with torch.inference_mode(False), torch.no_grad():
                self._seen.append(self._read(batch, missing))

    on_test_batch_start = on_validation_batch_start

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was kept."""
        self._log(trainer, pl_module, "test")

    def _read(self, batch: Any, count: int) -> _Seen:
        """Return copies of the first ``count`` images, since the module's step may change the batch."""
        images, labels = _parts(batch)
        images = self.images_of(batch) if self.images_of else images
        if not isinstance(images, Tensor):
            raise InputError(
                f"expected batches (images, labels) or dicts with one of {', '.join(_IMAGES)}, "
                f"got {type(batch).__name__}; use images_of=..., a function of the batch"
            )
        spec, pixels, size = self._explained, self._explained.preprocessing, len(images)
        images = images[:count].detach().clone()
        if self.spec and self.normalised and not self.images_of and images.shape[1:2] == (pixels.channels,):
            mean, std = (images.new_tensor(each, dtype=torch.float32) for each in (pixels.mean, pixels.std))
            images = images * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
            if images.numel() and not (images.min() >= -_OVERSHOOT and images.max() <= 1 + _OVERSHOOT):
                raise InputError(
                    f"expected images normalised by mean {pixels.mean} and std {pixels.std} of {spec.name}, got values "
                    f"in [{images.min():.4g}, {images.max():.4g}] after undoing that; correct the spec, "
                    "or use normalised=False or images_of=..."
                )
            images = images.clamp(0, 1)
        check_images(images, pixels.channels)
        known = isinstance(labels, Tensor) and labels.shape == (size,) and "int" in str(labels.dtype)
        chosen = labels[:count].tolist() if known else [-1] * len(images)
        if chosen and max(chosen) >= spec.num_classes:
            raise InputError(f"expected labels below {spec.num_classes}, the classes of {spec.name}, got {max(chosen)}")
        return _Seen(images.float(), chosen)

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self._due or trainer.sanity_checking:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir, "explanations")  # log_dir needs every process
        if not self._seen:  # not the main process, or no image
            return
        epoch, step = trainer.current_epoch, trainer.global_step
        with _leave_no_trace(self._seen[0].images.device):
            picture = self._draw(pl_module)
        self._seen = []
        path = folder / f"{stage}-epoch={epoch}-step={step}.png"
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{stage}/explanations", np.asarray(picture), step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"{stage}/explanations", [picture], step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, picture, f"explanations/{path.name}")

    def _draw(self, pl_module: LightningModule) -> Image.Image:
        """Explain the predicted classes of the kept images, and return the picture."""
        module: Any = pl_module  # checked in setup
        if self.spec:
            classifier, explain = self._explainer(detached_copy(find_network(pl_module, self.network)))
        else:
            classifier, explain = module.classifier, module.explain_batch
        names, pictures, overlays, titles = classifier.spec.class_names, [], [], []
        for seen in self._seen:  # batch by batch: sizes may differ
            images = seen.images.to(classifier.mean.device)
            confidences, predicted = scores(classifier.logits(images), classifier.spec.score).max(1)
            maps, notes = drawable(explain(images, predicted).float())
            pictures += [array_to_photo(image) for image in images]
            overlays += [overlay(picture, each) for picture, each in zip(pictures[-len(maps) :], maps, strict=True)]
            columns = predicted.tolist(), confidences.tolist(), seen.labels, notes
            for index, confidence, label, note in zip(*columns, strict=True):
                true = f", true: {names[label]} ({label})" if label >= 0 else ""
                titles.append(f"{names[index]} ({index}) {100 * confidence:.1f} %{true}{f', {note}' if note else ''}")
        return grid([pictures, overlays], column_titles=titles, side=_SIDE)

    def _explainer(self, network: nn.Module) -> tuple[FrozenClassifier, Explainer]:
        classifier = FrozenClassifier(self._explained, network, self._layers)
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
def _leave_no_trace(device: torch.device) -> Iterator[None]:
    """Restore the random state and cuDNN's settings afterwards; copies made here can be differentiated."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    try:
        cudnn.benchmark, cudnn.deterministic = False, True  # a classifier's feature layers are compared bit by bit
        devices = [device] if device.type == "cuda" else []
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _parts(batch: Any) -> tuple[Any, Any]:
    """Return images and labels of a batch, None where it has none."""
    if isinstance(batch, Mapping):
        images, labels = (next((batch[key] for key in keys if key in batch), None) for keys in (_IMAGES, _LABELS))
        return images, labels
    if isinstance(batch, list | tuple):
        return (*batch, None, None)[:2]
    return batch, None
