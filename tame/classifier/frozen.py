"""The frozen classifier: the only place that normalises, always in eval mode, with tapped features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tame.classifier.extractor import HookedExtractor, build_extractor, different, observe, use_hooks
from tame.classifier.layout import channels_first
from tame.classifier.outputs import with_output
from tame.classifier.probing.infer_spec import USUAL, infer_spec, resolve_layers
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.spec import BackboneSpec, Preprocessing, TokenLayout
from tame.functional.masking import apply_mask, upsample
from tame.types import ClassifierOutput, MaskingKind, ScoreKind
from tame.utils.checks import InputError


class FrozenClassifier(nn.Module):
    """A trained classifier that never changes.

    It stays in eval mode (`train` does nothing), its parameters need no gradient, and it takes images in
    [0, 1]: normalisation happens here and nowhere else.

    Args:
        spec: What is known of the classifier.
        module: The classifier itself, in any mode; it becomes frozen. It returns logits (B, K), or what
            `tame.classifier.outputs.with_output` can find them in.
        layers: Names of the modules whose outputs are the features, earliest first.
        weights: What its weights are called (a published name, a file, ``random``, ``given``).
        layers_named: Whether the user named these layers; others give way to those of a preset or checkpoint.
        source: What the classifier was loaded with, by argument of `tame.load_classifier`, for run folders.

    Raises:
        InputError: For a module that refuses its input or gives other logits than the spec says; for layers that do
            not exist, or whose tapped value differs from the module's own output.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> logits, (features,) = FrozenClassifier(spec, net, layers=["1"])(torch.rand(5, 3, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([5, 2]), torch.Size([5, 4, 6, 6]))
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
        source: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        if not layers:
            raise InputError(f"expected at least one layer of {spec.name} to read features from, got none")
        self.training = False
        self.spec = spec
        self.layers = tuple(spec.layer_aliases.get(layer, layer) for layer in layers)
        self.weights, self.layers_named, self.source = weights, layers_named, source
        module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.module = with_output(spec, module)
        preprocessing = spec.preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self._extractor: nn.Module = build_extractor(self.module, self.layers)
        self._weights_hash = ""
        self._check_taps()

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
        score: ScoreKind = "softmax",
    ) -> FrozenClassifier:
        """Freeze a trained network of any kind.

        Args:
            module: The network; it stays the caller's, and becomes frozen.
            layers: Feature layers by name, earliest first; default: proposed ones, see `tame inspect`.
            preprocess: How images become its input; default: ImageNet's, 224 pixels.
            classes: Names of the classes, or their number; default: as many as it has logits.
            name: What it is called in checkpoints; default: its class's name.
            tokens: How a token sequence becomes a map; default: inferred from the network.
            masking: ``cnn`` or ``vit``; default: by the kind of its features.
            cam_layer: Layer that the CAM methods explain; default: the last of ``layers``.
            output: Where the logits are in what it returns, see `tame.classifier.outputs.resolve_output`.
            score: What makes confidences of its logits.

        Raises:
            InputError: If the network refuses its input, contradicts what is given, or has no such layers.

        Example:
            >>> head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
            >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *head)
            >>> grey = Preprocessing(resize=(20, 30), crop=(20, 30), mean=(0.5,), std=(0.25,))
            >>> classifier = FrozenClassifier.from_module(net, ["1"], grey, classes=["benign", "malignant"])
            >>> classifier(torch.rand(5, 1, 20, 30)).logits.shape
            torch.Size([5, 2])
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
        spec = infer_spec(name or type(module).__name__, lambda: module, overrides, preprocess or USUAL)
        network = with_output(spec, module.eval())
        chosen = resolve_layers(spec, network, layers or "proposed")
        return cls(spec, network, chosen, layers_named=layers is not None)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: BatchNorm statistics and dropout never move."""
        return self

    @property
    def traced(self) -> bool:
        """Whether layers are read from a traced graph; else with hooks."""
        return isinstance(self._extractor, GraphModule)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels C_i of each feature map."""
        return self._channels

    @property
    def weights_hash(self) -> str:
        """SHA-256 over the names, shapes and values of all parameters and buffers."""
        if not self._weights_hash:
            digest = hashlib.sha256()
            for name, value in sorted(self.module.state_dict().items()):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            self._weights_hash = digest.hexdigest()
        return self._weights_hash

    def with_layers(self, layers: Sequence[str]) -> FrozenClassifier:
        """Return the same classifier, parameters shared, with other feature layers."""
        changed = FrozenClassifier(self.spec, self.module, layers, self.weights, source=self.source)
        return changed.to(self.mean.device)

    def with_layer_set(self, name: str) -> FrozenClassifier:
        """Return the same classifier with a named layer set of its spec, or itself where the user named layers."""
        if self.layers_named:
            return self
        layers = resolve_layers(self.spec, self.module, name)
        return self if layers == self.layers else self.with_layers(layers)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, per channel.

        The result lies in memory channels last, like the weights: convolutions are up to twice as quick so.
        """
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify images (B, C, H, W) in [0, 1]: logits (B, K) and features, each (B, C_i, h_i, w_i)."""
        outputs = self._extractor(self.normalise(images))
        size = images.shape[2:]
        features = tuple(self._to_map(outputs[str(index)], layer, size) for index, layer in enumerate(self.layers))
        return ClassifierOutput(outputs["logits"], features)

    def logits(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1] without reading features: logits (B, K)."""
        return self.module(self.normalise(images))

    def masked_logits(self, images: Tensor, maps: Tensor, masking: MaskingKind | None = None) -> Tensor:
        """Classify masked images.

        Args:
            images: (B, C, H, W) in [0, 1].
            maps: (B, h, w) in [0, 1], upsampled bilinearly to (H, W).
            masking: Kind of masking; None for the backbone's own.

        Returns:
            Logits (B, K).
        """
        height, width = images.shape[-2:]
        masks = upsample(maps, (height, width))
        return self.module(apply_mask(images, masks, self.normalise, masking or self.spec.masking))

    def _to_map(self, feature: Tensor, layer: str, size: tuple[int, ...]) -> Tensor:
        if feature.ndim == 3 and self.spec.tokens is not None:
            return self.spec.tokens.to_map(feature)
        if feature.ndim != 4:
            shape = tuple(feature.shape)
            raise InputError(f"layer {layer!r} gives {shape}: expected a feature map (B, C, h, w) or (B, h, w, C)")
        return channels_first(feature, size)

    def _check_taps(self) -> None:
        """Check once, on a random input, that every tap equals its module's own output; else read it with hooks."""
        shape = (1, *self.spec.preprocessing.shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        device = next(self.module.parameters(), self.mean).device
        self.to(device)
        with torch.no_grad():
            inputs = self.normalise(images.to(device))
            expected, logits = observe(self.module, self.layers, inputs)
            for layer, output in zip(self.layers, expected, strict=True):
                if not isinstance(output, Tensor):
                    raise InputError(f"layer {layer!r} gives a {type(output).__name__}: expected one tensor")
                if len(output) != 1:
                    raise InputError(f"layer {layer!r} gives {tuple(output.shape)} of one image: expected one map")
            if different(self._extractor, inputs, expected, logits):
                use_hooks(self.module, f"the traced graph of {self.spec.name} gives other values than the network")
                self._extractor = HookedExtractor(self.module, self.layers)
                if number := different(self._extractor, inputs, expected, logits):
                    what = (*map("layer {!r}".format, self.layers), "the logits")[number - 1]
                    raise InputError(f"{what} of {self.spec.name} differ between two passes over one image")
        self._channels = tuple(
            self._to_map(output, layer, shape[2:]).shape[1] for layer, output in zip(self.layers, expected, strict=True)
        )
