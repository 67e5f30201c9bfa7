"""Specification of a classifier as data: preprocessing, classes, feature layers, tokens, weights."""

from __future__ import annotations

import math
import unicodedata
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
            of them that are not finite (std: not positive) or larger than 1, as those of images in 0..255.
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
        if max(*self.mean, *self.std) > 1:
            scaled = [tuple(round(value / 255, 4) for value in values) for values in (self.mean, self.std)]
            raise InputError(
                f"expected mean and std of images in [0, 1], at most 1, got mean {self.mean} and std {self.std}: of "
                f"images in 0..255 they are divided by 255, mean {scaled[0]} and std {scaled[1]}"
            )

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
        score: How logits become confidences: ``softmax`` over all classes, ``sigmoid`` per class (multi-label
            classifiers), or ``probability``: the network returns probabilities p, and its logits are log p.
        description: Its ``summary``, ``cost`` and ``paper``, for the list of backbones.

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
    description: Mapping[str, str] = field(default_factory=dict)

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

        Names are compared in full, ignoring case and Unicode normal forms; of names such as ``tabby, tabby cat``, each
        part is one as well. A name that several classes carry, or that is also another class's index, is refused:
        ``#INDEX`` selects a class by its index alone.

        Args:
            target: Class name or class index.

        Raises:
            InputError: For an index out of range, an ambiguous name, or an unknown name (listing similar names).
        """
        text = str(target).strip()
        names = [_comparable(name) for name in self.class_names]
        wanted = _comparable(text)
        found = [index for index, name in enumerate(names) if name == wanted]
        found = found or [index for index, name in enumerate(names) if wanted in map(str.strip, name.split(","))]
        number = text.removeprefix("-") if found else text.removeprefix("#").removeprefix("-")
        if number.isdecimal():
            index = int(text.removeprefix("#")) if len(number) < 20 else -1
            if not isinstance(target, str) or not found or found == [index]:
                if not 0 <= index < self.num_classes:
                    raise InputError(f"expected a class index in 0..{self.num_classes - 1}, got {text[:30]}")
                return index
            found = sorted({*found, *([index] if 0 <= index < self.num_classes else [])})
        if len(found) == 1:
            return found[0]
        if found:
            indices = ", ".join(f"#{index} ({self.class_names[index]})" for index in found)
            raise InputError(f"class {text!r} is ambiguous: use one of the indices {indices}")
        parts = [index for index, name in enumerate(names) if wanted in name]
        matches = set(get_close_matches(wanted, names, n=5))
        near = list(dict.fromkeys(parts[:5] + [index for index, name in enumerate(names) if name in matches]))
        hint = "; similar names: " + ", ".join(f"{self.class_names[i]!r} ({i})" for i in near) if near else ""
        raise InputError(f"unknown class {text!r} for {self.name}{hint}")


def _comparable(name: str) -> str:
    """Return a name without differences of case, Unicode normal form and outer spaces."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
