"""The frozen classifier: normalises images and returns logits and features, always in eval mode."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tame.classifier.calls import count_calls, say_last_calls
from tame.classifier.extractor import (
    HookedExtractor,
    build_extractor,
    first_difference,
    hooked_outputs_and_result,
    use_hooks,
)
from tame.classifier.layout import channels_first
from tame.classifier.locks import network_lock
from tame.classifier.outputs import WithOutput, with_output
from tame.classifier.probabilities import warn_of_probabilities
from tame.classifier.probing.infer_spec import IMAGENET_PREPROCESSING, infer_spec, resolve_layers
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.shared import freeze, own_buffers, sharing_copy
from tame.classifier.spec import BackboneSpec, Preprocessing, TokenLayout
from tame.functional.masking import apply_mask, upsample
from tame.types import ClassifierOutput, MaskingKind, ScoreKind
from tame.utils.checks import InputError

logger = logging.getLogger("tame")


class FrozenClassifier(nn.Module):
    """A trained classifier with frozen weights.

    It stays in eval mode (`train` has no effect), its parameters require no gradient, and it takes images in [0, 1]:
    it is the only place where images are normalised.

    Args:
        spec: Specification of the classifier.
        module: The trained network, frozen in place. It returns logits (B, K), or a value in which
            `tame.classifier.outputs.with_output` finds them.
        layers: Names of the feature layers, earliest first: modules, or their calls, see `tame.classifier.calls`.
        weights: Name of the weights in checkpoints and run folders; ``given`` for a module that the caller built.
        layers_named: Whether the user chose these layers. If not, the layers of a preset or checkpoint replace them.
        source: Arguments of `tame.load_classifier` that the classifier was loaded with, for run folders.
        shared: Whether the module shares its tensors with a network that may be trained meanwhile, see
            `tame.classifier.shared.sharing_copy`: their memory format is left as it is.
        no_layers: Why it has no feature layers: reading ``layers`` then raises an error that says so.

    Raises:
        InputError: If the module rejects its input or its logits contradict the spec; if a layer does not exist, does
            not return one tensor, or differs between two passes over the same image.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        module: nn.Module,
        layers: Sequence[str],
        weights: str = "given",
        *,
        layers_named: bool = True,
        source: Mapping[str, Any] | None = None,
        shared: bool = False,
        no_layers: str = "",
    ) -> None:
        super().__init__()
        if not layers and not no_layers:
            raise InputError(f"expected at least one layer of {spec.name} to read features from, got none")
        self.training = False
        self.spec = spec
        self._layers = tuple(spec.layer_aliases.get(layer, layer) for layer in layers)
        self.weights, self.layers_named, self.source = weights, layers_named, dict(source or {})
        self.shared, self.no_layers, self._weights_hash = shared, no_layers, ""
        self.register_buffer("mean", torch.tensor(spec.preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.preprocessing.std).view(1, -1, 1, 1), persistent=False)
        with network_lock(module):
            module = module if shared else freeze(module).to(memory_format=torch.channels_last)
            self.module = with_output(spec, module)
            self._extractor: nn.Module = build_extractor(self.module, self._layers)
            self._check_features()

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        layers: str | Sequence[str] | None = None,
        preprocess: Preprocessing | None = None,
        classes: int | Sequence[str] | None = None,
        *,
        name: str | None = None,
        tokens: TokenLayout | None = None,
        masking: MaskingKind | None = None,
        cam_layer: str | None = None,
        output: str | Callable[[Any], Tensor] | None = None,
        score: ScoreKind | None = None,
    ) -> FrozenClassifier:
        """Wrap a trained network of any architecture as a frozen classifier.

        The network is left as it is: its mode, `requires_grad`, gradients, buffers and memory format. The classifier
        has a structure of its own that shares the memory of the network's tensors: it follows further training, but not
        replaced layers or a move to another device, see `tame.classifier.shared.sharing_copy`.

        Args:
            module: The network, in any mode.
            layers: Feature layers by module name, earliest first; default: proposed, see `tame.inspect_classifier`.
            preprocess: Resize, crop, mean and std; default: ImageNet's, 224 x 224 pixels.
            classes: Class names or number of classes; default: inferred from the logits.
            name: Name of the classifier in checkpoints; default: the network's class name.
            tokens: Layout of token sequences; default: inferred from the network.
            masking: How images are masked, ``cnn`` or ``vit``; default: ``vit`` for networks that work on tokens,
                otherwise ``cnn``.
            cam_layer: Target layer of the CAM methods; default: the last feature layer.
            output: Where the logits are in the network's return value, see
                `tame.classifier.outputs.resolve_output`; default: the value itself, or its attribute or key ``logits``.
            score: How logits become confidences: ``softmax``, ``sigmoid``, or ``probability`` (the network returns
                probabilities); default: ``probability`` if its outputs are recognised as such, otherwise ``softmax``.

        Raises:
            InputError: If the network rejects its input, contradicts these arguments, or has no such layers.
        """
        overrides = SpecOverrides(
            num_classes=classes if isinstance(classes, int) else None,
            class_names=None if classes is None or isinstance(classes, int) else tuple(classes),
            tokens=tokens,
            masking=masking,
            cam_layer=cam_layer,
            output=output,
            score=score,
        )
        name = name or type(module).__name__
        own = sharing_copy(module)
        with own_buffers(own):
            spec = infer_spec(name, lambda: own, overrides, preprocess or IMAGENET_PREPROCESSING)
            return cls.proposing(spec, with_output(spec, own), layers, shared=True)

    @classmethod
    def proposing(
        cls,
        spec: BackboneSpec,
        module: nn.Module,
        layers: str | Sequence[str] | None,
        weights: str = "given",
        *,
        shared: bool = False,
    ) -> FrozenClassifier:
        """Freeze a classifier with these feature layers, see `resolve_layers`; default: proposed ones.

        If none can be proposed, it has none: methods that read no layers can explain it.
        """
        try:
            chosen, why = resolve_layers(spec, module, layers or "proposed"), ""
        except InputError as error:
            if layers is not None or not module.state_dict():  # without weights it is no classifier
                raise
            chosen, why = (), str(error)
            logger.warning("%s", why)
        return cls(spec, module, chosen, weights, layers_named=layers is not None, shared=shared, no_layers=why)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: batch normalisation and dropout stay in eval mode."""
        return self

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the feature layers, earliest first.

        Raises:
            InputError: If the classifier has none.
        """
        if self.no_layers:
            raise InputError(self.no_layers)
        return self._layers

    @property
    def traced(self) -> bool:
        """Whether the feature layers are read from a graph traced by `torch.fx`, otherwise with forward hooks."""
        return isinstance(self._extractor, GraphModule)

    @property
    def casts(self) -> bool:
        """Whether images, logits, features and maps are cast: the network is in half or double precision."""
        return isinstance(self.module, WithOutput) and self.module.casts

    @property
    def channels(self) -> tuple[int, ...]:
        """Number C_i of channels of each feature map."""
        return self._channels

    @property
    def weights_hash(self) -> str:
        """SHA-256 over the names, shapes and values of all parameters and buffers."""
        if not self._weights_hash or self.shared:
            digest = hashlib.sha256()
            for name, value in sorted(self.module.state_dict().items()):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            self._weights_hash = digest.hexdigest()
        return self._weights_hash

    def with_layers(self, layers: Sequence[str], named: bool = True) -> FrozenClassifier:
        """Return the same classifier, parameters shared, with other feature layers.

        Args:
            layers: Names of modules, earliest first.
            named: Whether the user named them, see the class.
        """
        return self.changed(self.spec, layers, named)

    def changed(self, spec: BackboneSpec, layers: Sequence[str], named: bool) -> FrozenClassifier:
        """Return the same classifier, parameters shared, with another description and other feature layers."""
        changed = FrozenClassifier(
            spec, self.module, layers, self.weights, layers_named=named, source=self.source, shared=self.shared
        )
        return changed.to(self.mean.device)

    def with_layer_set(self, name: str) -> FrozenClassifier:
        """Return the same classifier with a named layer set of its spec, or itself where the user named layers."""
        if self.layers_named or self.no_layers:
            return self
        layers = resolve_layers(self.spec, self.module, name)
        return self if layers == self.layers else self.with_layers(layers, named=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, per channel.

        The result is in channels-last memory format, like the weights, which makes convolutions up to twice as fast.
        """
        return ((images.to(self.mean.dtype) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify images (B, C, H, W) in [0, 1]: logits (B, K) and features, each (B, C_i, h_i, w_i)."""
        with network_lock(self.module):
            outputs = self._extractor(self.normalise(images))
        features = tuple(self._to_map(outputs[str(i)], layer, images.shape[2:]) for i, layer in enumerate(self._layers))
        return ClassifierOutput(outputs["logits"], features)

    def logits(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1] without reading features: logits (B, K)."""
        with network_lock(self.module):
            return self.module(self.normalise(images))

    def masked_logits(self, images: Tensor, maps: Tensor, masking: MaskingKind | None = None) -> Tensor:
        """Classify masked images.

        Args:
            images: (B, C, H, W) in [0, 1].
            maps: (B, h, w) in [0, 1], upsampled bilinearly to (H, W).
            masking: ``cnn`` or ``vit``; default: the backbone's own.

        Returns:
            Logits (B, K).
        """
        masks = upsample(maps, (images.shape[-2], images.shape[-1]))
        with network_lock(self.module):
            return self.module(apply_mask(images, masks, self.normalise, masking or self.spec.masking))

    def _to_map(self, feature: Tensor, layer: str, size: tuple[int, ...]) -> Tensor:
        feature = feature.float() if self.casts else feature
        if feature.ndim == 3 and self.spec.tokens is not None:
            return self.spec.tokens.to_map(feature)
        if feature.ndim != 4:
            shape = tuple(feature.shape)
            raise InputError(f"layer {layer!r} returns {shape}: expected a feature map (B, C, h, w) or (B, h, w, C)")
        return channels_first(feature, size)

    def _check_features(self) -> None:
        """Compare the features with the modules' own outputs on a random image; if they differ, use hooks."""
        images = torch.rand((1, *self.spec.preprocessing.shape), generator=torch.Generator().manual_seed(0))
        device = next(self.module.parameters(), self.mean).device
        self.to(device)
        with torch.no_grad():
            inputs = self.normalise(images.to(device))
            with count_calls(self.module, self._layers) as counts:
                expected, logits = hooked_outputs_and_result(self.module, self._layers, inputs)
            say_last_calls(counts, self.spec)
            warn_of_probabilities(logits, self.spec)
            for layer, output in zip(self._layers, expected, strict=True):
                if not isinstance(output, Tensor):
                    raise InputError(f"layer {layer!r} returns a {type(output).__name__}: expected one tensor")
                if len(output) != 1:
                    raise InputError(f"layer {layer!r} returns {tuple(output.shape)} for one image: expected one map")
            if first_difference(self._extractor, inputs, expected, logits):
                use_hooks(self.module, f"the traced graph of {self.spec.name} differs from the network")
                self._extractor = HookedExtractor(self.module, self._layers)
                if number := first_difference(self._extractor, inputs, expected, logits):
                    what = (*map("layer {!r}".format, self._layers), "the logits")[number - 1]
                    raise InputError(f"{what} of {self.spec.name} differ between two passes over the same image")
        self._channels = tuple(
            self._to_map(output, layer, images.shape[2:]).shape[1]
            for layer, output in zip(self._layers, expected, strict=True)
        )
