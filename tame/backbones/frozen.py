"""The frozen classifier: the only place that normalises, always in eval mode, with tapped features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from tame.backbones.spec import BackboneSpec
from tame.backbones.taps import build_extractor, hooked_outputs
from tame.checks import InputError
from tame.functional.masking import apply_mask, upsample
from tame.types import ClassifierOutput, MaskingKind


class FrozenClassifier(nn.Module):
    """A trained classifier that never changes.

    It stays in eval mode (`train` does nothing), its parameters need no gradient, and it takes images in
    [0, 1]: normalisation happens here and nowhere else.

    Args:
        spec: What is known of the classifier.
        module: The classifier itself, in any mode; it becomes frozen.
        layers: Names of the modules whose outputs are the features, earliest first.
        weights: What its weights are called (a published name, a file, ``random``, ``given``).

    Raises:
        InputError: For layers that do not exist, or whose tapped value differs from the module's own output.

    Example:
        >>> from torch import nn
        >>> from tame.backbones import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> logits, (features,) = FrozenClassifier(spec, net, layers=["1"])(torch.rand(5, 3, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([5, 2]), torch.Size([5, 4, 6, 6]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, module: nn.Module, layers: Sequence[str], weights: str = "given") -> None:
        super().__init__()
        if not layers:
            raise InputError(f"expected at least one layer of {spec.name} to read features from, got none")
        self.training = False
        self.spec = spec
        self.layers = tuple(spec.layer_aliases.get(layer, layer) for layer in layers)
        self.weights = weights
        self.module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        preprocessing = spec.preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self._extractor = build_extractor(self.module, self.layers).eval()
        self._weights_hash = ""
        self._check_taps()

    def train(self, mode: bool = True) -> Self:
        """Do nothing: BatchNorm statistics and dropout never move."""
        return self

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
        """Return the same classifier, parameters shared, with other taps."""
        return FrozenClassifier(self.spec, self.module, layers, self.weights).to(self.mean.device)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, per channel.

        The result lies in memory channels last, like the weights: convolutions are up to twice as quick so.
        """
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify images (B, C, H, W) in [0, 1]: logits (B, K) and features, each (B, C_i, h_i, w_i)."""
        outputs = self._extractor(self.normalise(images))
        features = tuple(self._to_map(outputs[str(index)], layer) for index, layer in enumerate(self.layers))
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

    def _to_map(self, feature: Tensor, layer: str) -> Tensor:
        if feature.ndim == 3 and self.spec.tokens is not None:
            return self.spec.tokens.to_map(feature)
        if feature.ndim != 4:
            raise InputError(f"layer {layer!r} gives {tuple(feature.shape)}: expected a feature map (B, C, h, w)")
        return feature

    def _check_taps(self) -> None:
        """Check once, on a random input, that every tap equals its module's own output."""
        shape = (1, *self.spec.preprocessing.shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        device = next(self.module.parameters(), self.mean).device
        self.to(device)
        with torch.no_grad():
            inputs = self.normalise(images.to(device))
            tapped = self._extractor(inputs)
            hooked = hooked_outputs(self.module, self.layers, inputs)
        if tapped["logits"].shape != (1, self.spec.num_classes):
            raise InputError(
                f"expected logits of shape (1, {self.spec.num_classes}) from {self.spec.name}, "
                f"got {tuple(tapped['logits'].shape)}"
            )
        channels = []
        for index, (layer, expected) in enumerate(zip(self.layers, hooked, strict=True)):
            if not isinstance(expected, Tensor):
                raise InputError(f"layer {layer!r} gives a {type(expected).__name__}: expected one tensor")
            got = tapped[str(index)]
            if not (isinstance(got, Tensor) and got.shape == expected.shape and torch.equal(got, expected)):
                raise InputError(f"the tap at layer {layer!r} differs from the output of that module")
            feature = self._to_map(got, layer)
            if self.spec.tokens is None and feature.shape[2] != feature.shape[3]:  # of a square image
                raise InputError(f"layer {layer!r} gives {tuple(feature.shape)}: expected channels first, (B, C, h, w)")
            channels.append(feature.shape[1])
        self._channels = tuple(channels)
