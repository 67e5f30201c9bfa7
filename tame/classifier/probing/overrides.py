"""What a user says of a classifier, in the place of what is inferred from the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tame.classifier.spec import TokenLayout
from tame.utils.checks import InputError

IMAGENET = "imagenet"
"""In the place of a file of class names: the 1000 of ImageNet."""


@dataclass(frozen=True)
class SpecOverrides:
    """What is known of a classifier; None is inferred from the network, or takes the backbone's own value.

    Attributes:
        num_classes: Number of classes K.
        class_names: One name per class.
        input_size: (height, width) of its input, pixels.
        resize: Short side, or (height, width), before the crop; None keeps the backbone's proportion to the input.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: Per channel, for images in [0, 1]; as many as there are channels.
        std: Per channel.
        layers: Feature layers, earliest first.
        cam_layer: Layer that the CAM methods explain.
        masking: ``cnn`` or ``vit``.
        tokens: How a token sequence becomes a map.
        output: Where the logits are in what the network returns, see `tame.classifier.outputs`.
        score: ``softmax`` or ``sigmoid``.
        weights: Path of a state_dict, in a spec file.
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

    @property
    def count(self) -> int | None:
        """Number of classes, as said or by the names; None where neither is known."""
        return self.num_classes or (len(self.class_names) if self.class_names else None)

    def over(self, other: SpecOverrides) -> SpecOverrides:
        """Return ``other`` with what is known here in its place."""
        return replace(other, **self.known())

    def known(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Read class names, one per line in index order; ``imagenet`` stands for ImageNet's own.

    Raises:
        InputError: If there is no such file, or it holds an empty line.
    """
    if str(path) == IMAGENET:
        return imagenet_names()
    try:
        names = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a file of class names, one per line, or {IMAGENET}, got {path}: {error}") from error
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise InputError(f"expected a class name in every line of {path}, got an empty line {number}")
    return tuple(name.strip() for name in names)


def imagenet_names() -> tuple[str, ...]:
    """Return ImageNet's class names as torchvision writes them."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def read_size(option: str, value: str | int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of ``224``, ``64x96``, or a sequence of two.

    Raises:
        InputError: Naming the option, for anything else.
    """
    parts = value.lower().split("x") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    try:
        sides = [int(part) for part in parts]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise InputError(f"expected {option} in pixels, one number or HEIGHTxWIDTH, got {value!r}")
    return sides[0], sides[-1]
