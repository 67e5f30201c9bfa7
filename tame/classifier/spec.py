"""Specification of a classifier as data: preprocessing, classes, feature layers, tokens, weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from torch import Tensor, nn

from tame.types import Interpolation, MaskingKind, ScoreKind
from tame.utils.checks import InputError, check_sides


@dataclass(frozen=True)
class Preprocessing:
    """How an image is resized, cropped and normalised for a classifier.

    Attributes:
        resize: Length of the short side after resizing, or a fixed (height, width) regardless of the aspect ratio, in
            pixels.
        crop: Side of the square centre crop, or its (height, width), in pixels.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: Mean per channel of images in [0, 1].
        std: Standard deviation per channel of images in [0, 1].

    Raises:
        InputError: For sides below one pixel, an unknown interpolation, mean and std of different lengths, or values
            of them that are not finite (std: not positive).
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        check_sides("resize", self.resize)
        check_sides("crop", self.crop)
        if self.interpolation not in get_args(Interpolation):
            known = " or ".join(get_args(Interpolation))
            raise InputError(f"expected the interpolation {known}, got {self.interpolation!r}")
        if not self.mean or len(self.mean) != len(self.std):
            raise InputError(
                f"expected mean and std of the same length, one value per channel, got {self.mean} and {self.std}"
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < value < math.inf for value in self.std):
            raise InputError(f"expected finite means and stds above 0, got mean {self.mean} and std {self.std}")

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.mean)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the classifier's input, in pixels."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the classifier's input."""
        return (self.channels, *self.size)


@dataclass(frozen=True)
class TokenLayout:
    """How a token sequence (B, p + n, D) is reshaped to a feature map (B, D, gh, gw).

    Attributes:
        prefix: Number p of tokens before the patch tokens (class token, distillation token, registers).
        grid: Rows and columns (gh, gw) of the patch grid, gh * gw = n.
        gate: Multiply the patch tokens by the first prefix token, as the authors' released program does (``TTAME``).

    Raises:
        InputError: For a gate without a prefix token.
    """

    prefix: int
    grid: tuple[int, int]
    gate: bool = False

    def __post_init__(self) -> None:
        if self.gate and not self.prefix:
            raise InputError("expected a prefix token to gate the patches with, got prefix=0")

    def to_map(self, tokens: Tensor) -> Tensor:
        """Reshape tokens (B, p + n, D) to a map (B, D, gh, gw).

        Raises:
            InputError: If the number of tokens is not p + gh * gw.
        """
        height, width = self.grid
        if tokens.ndim != 3 or tokens.shape[1] != self.prefix + height * width:
            raise InputError(
                f"expected tokens of shape (B, {self.prefix} + {height} * {width}, D), got {tuple(tokens.shape)}"
            )
        patches = tokens[:, self.prefix :]
        if self.gate:
            patches = patches * tokens[:, :1]
        return patches.transpose(1, 2).reshape(len(tokens), -1, height, width)  # (B, n, D) -> (B, D, gh, gw)


@dataclass(frozen=True)
class BackboneSpec:
    """Everything that is known of a classifier besides its weights.

    Attributes:
        name: Name of the backbone, as in commands and checkpoints.
        build: Function that returns the network with random weights.
        preprocessing: Resize, crop, interpolation, mean and std.
        class_names: One name per class, in index order.
        layers: Layer sets by name (``paper``, ``released``, ``proposed``), each a tuple of module names, earliest
            first. A plain name means the module's last call, ``pool#1`` its first. If a set is
            missing, feature layers are proposed.
        cam_layer: Target layer of the CAM methods; default: the last feature layer.
        masking: How images are masked for this classifier, ``cnn`` or ``vit``, see `tame.functional.masking`.
        tokens: Layout of token sequences; None for classifiers that work on feature maps.
        weights: Published weights by name: functions that return a state_dict, or None if ``build`` loads them.
        weights_preprocessing: Preprocessing by name of weights, for those that differ from ``preprocessing``.
        layer_aliases: Alternative layer names that occur in the authors' checkpoints, and the modules' names.
        output: Function from the network's return value to logits (B, K), see `tame.classifier.outputs`; default:
            inferred.
        score: How logits become confidences: ``softmax`` over all classes, or ``sigmoid`` per class (multi-label
            classifiers).

    Raises:
        InputError: For an unknown score, or softmax with a single class.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cam_layer: str | None = None
    masking: MaskingKind = "cnn"
    tokens: TokenLayout | None = None
    weights: Mapping[str, Callable[[], Mapping[str, Tensor] | None]] = field(default_factory=dict)
    weights_preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)
    layer_aliases: Mapping[str, str] = field(default_factory=dict)
    output: Callable[[Any], Tensor] | None = None
    score: ScoreKind = "softmax"

    def __post_init__(self) -> None:
        if self.score not in get_args(ScoreKind):
            raise InputError(f"expected the score {' or '.join(get_args(ScoreKind))}, got {self.score!r}")
        if self.score == "softmax" and self.num_classes == 1:
            raise InputError(
                f"the softmax of a single class is always 1: expected two class names (negative, positive) or "
                f"the score sigmoid for {self.name}, got the class {self.class_names[0]!r} alone"
            )

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return len(self.class_names)

    def resolve_target(self, target: str | int) -> int:
        """Return the class index of a class name, or of an index.

        Names are compared in full, ignoring case. Classes that share a name are selected by index.

        Args:
            target: Class name or class index.

        Raises:
            InputError: For an index out of range, an ambiguous name, or an unknown name (listing similar names).
        """
        text = str(target).strip()
        if text.removeprefix("-").isdecimal():
            if not 0 <= int(text) < self.num_classes:
                raise InputError(f"expected a class index in 0..{self.num_classes - 1}, got {text}")
            return int(text)
        lowered = [name.lower() for name in self.class_names]
        found = [index for index, name in enumerate(lowered) if name == text.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"class name {text!r} is ambiguous: use one of the indices {', '.join(map(str, found))}")
        parts = [index for index, name in enumerate(lowered) if text.lower() in name]
        close = [lowered.index(name) for name in get_close_matches(text.lower(), lowered, n=5)]
        near = list(dict.fromkeys(parts[:5] + close))
        hint = "; similar names: " + ", ".join(f"{self.class_names[i]!r} ({i})" for i in near) if near else ""
        raise InputError(f"unknown class {text!r} for {self.name}{hint}")
