"""Properties of a classifier that a user states, in place of the inferred ones or the backbone's own."""

from __future__ import annotations

import reprlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tame.classifier.spec import TokenLayout
from tame.utils.checks import InputError, check_sides
from tame.utils.limits import check_numbers

IMAGENET = "imagenet"
"""Used in place of a file of class names: the 1000 classes of ImageNet."""


DESCRIPTION = ("num_classes", "class_names", "input_size", "mean", "std")
"""Arguments of `overrides_of`, by which a user describes a classifier."""


@dataclass(frozen=True)
class SpecOverrides:
    """Stated properties of a classifier; those that are None are the backbone's own, or inferred from the network.

    Attributes:
        num_classes: Number K of classes.
        class_names: One name per class, in index order.
        input_size: (height, width) of the input, in pixels.
        resize: Length of the short side, or (height, width), before the crop; default: the backbone's ratio of resize
            to crop is kept.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: Mean per channel of images in [0, 1]; its length is the number of channels.
        std: Standard deviation per channel of images in [0, 1].
        layers: Feature layers by module name, earliest first.
        cam_layer: Target layer of the CAM methods.
        masking: How images are masked, ``cnn`` or ``vit``.
        tokens: Layout of token sequences.
        output: Where the logits are in the network's return value, see `tame.classifier.outputs.resolve_output`.
        score: How logits become confidences: ``softmax``, ``sigmoid``, or ``probability`` (the network returns
            probabilities); default: recognised.
        weights: Path of a state_dict (only in spec files).

    Raises:
        InputError: For a number of classes out of range.
    """

    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    input_size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layers: tuple[str, ...] | None = None
    cam_layer: str | None = None
    masking: str | None = None
    tokens: TokenLayout | None = None
    output: str | Callable[[Any], Tensor] | None = None
    score: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        check_numbers(num_classes=self.num_classes)

    @property
    def count(self) -> int | None:
        """Number of classes, from ``num_classes`` or ``class_names``; None if neither is set."""
        return self.num_classes or (len(self.class_names) if self.class_names else None)

    def over(self, other: SpecOverrides) -> SpecOverrides:
        """Return ``other`` with the values that are set here replacing its own."""
        return replace(other, **self.known())

    def known(self) -> dict[str, Any]:
        """Return the values that are set, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


def overrides_of(
    num_classes: int | None = None,
    class_names: str | Path | Sequence[str] | None = None,
    input_size: str | int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SpecOverrides:
    """Return the overrides that are arguments of `tame.load_classifier`, parsed.

    Raises:
        InputError: For a file of class names or an input size that cannot be read.
    """
    if isinstance(class_names, str | Path):
        names: tuple[str, ...] | None = read_class_names(class_names)
    else:
        names = None if class_names is None else tuple(class_names)
    return SpecOverrides(
        num_classes=num_classes,
        class_names=names,
        input_size=None if input_size is None else read_size("input_size", input_size),
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
    )


def read_class_names(path: str | Path) -> tuple[str, ...]:
    r"""Read class names from a file in UTF-8, or in UTF-16 with a byte order mark.

    Only ``\n`` and ``\r\n`` end a line; spaces and tabs around a name, and blank lines at the end, are ignored.

    Args:
        path: Text file with one name per line, in index order, or ``imagenet`` for the classes of ImageNet.

    Raises:
        InputError: If the file cannot be read, or contains no name, or an empty line before a name.
    """
    if str(path) == IMAGENET:
        return imagenet_names()
    try:
        text = decoded(Path(path).read_bytes())
    except (OSError, UnicodeError) as error:
        raise InputError(f"expected a file of class names, one per line, or {IMAGENET}, got {path}: {error}") from error
    names = [line.removesuffix("\r").strip(" \t") for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"expected a class name in every line of {path}, got an empty file")
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise InputError(f"expected a class name in every line of {path}, got an empty line {number}")
    return tuple(names)


def decoded(data: bytes) -> str:
    r"""Decode text: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        UnicodeError: For any other encoding.

    Example:
        >>> decoded("\ufeffcat".encode()), decoded("cat".encode("utf-16"))
        ('cat', 'cat')
    """
    text = data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    if "\0" in text:
        raise UnicodeError("it is neither UTF-8 nor UTF-16 with a byte order mark")
    return text


def imagenet_names() -> tuple[str, ...]:
    """Return the class names of ImageNet, as in torchvision."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def read_size(name: str, value: str | int | Sequence[int]) -> tuple[int, int]:
    """Parse a size: ``224``, ``64x96`` (HEIGHTxWIDTH), or a sequence (height, width).

    Args:
        name: Name of the argument, for error messages.
        value: The size, in pixels.

    Returns:
        (height, width).

    Raises:
        InputError: For any other value.
    """
    parts = value.lower().split("x") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise InputError(f"expected {name} in pixels, one number or HEIGHTxWIDTH, got {reprlib.repr(value)}")
    check_sides(name, (sides[0], sides[-1]))
    return sides[0], sides[-1]
