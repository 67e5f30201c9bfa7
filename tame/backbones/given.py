"""What a user says of a classifier of their own: on the command line, in a file, or in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from tame.backbones.spec import TokenLayout
from tame.checks import InputError
from tame.options import CommonOptions

IMAGENET = "imagenet"
"""In the place of a file of class names: the 1000 of ImageNet."""


@dataclass(frozen=True)
class Given:
    """What is known of a classifier; what is left out is worked out from the network, or the usual.

    Attributes:
        num_classes: K; 0: as many as the network has.
        class_names: One per class; none: ``class 0`` and so on.
        input_size: (height, width) of its input, pixels.
        resize: Short side, or (height, width), before the crop; None: in the usual proportion to the input.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: Per channel, for images in [0, 1]; as many as there are channels.
        std: Per channel.
        layers: Feature layers, earliest first; none: proposed ones.
        cam_layer: Layer that the CAM methods explain.
        masking: ``cnn`` or ``vit``.
        tokens: How a token sequence becomes a map; None: found out.
        output: Where the logits are in what the network returns, see `tame.backbones.outputs`.
        score: ``softmax`` or ``sigmoid``.
        weights: Path of a state_dict, in a spec file.
    """

    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    input_size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layers: tuple[str, ...] = ()
    cam_layer: str = ""
    masking: str = ""
    tokens: TokenLayout | None = None
    output: str | Callable[[Any], Tensor] = ""
    score: str = ""
    weights: str = ""

    def over(self, other: Given) -> Given:
        """Return ``other`` with what is known here in its place."""
        known = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}
        return replace(other, **known)

    @classmethod
    def by(cls, options: CommonOptions) -> Self:
        """Return what the command line says.

        Raises:
            InputError: For a value that cannot be read.
        """
        return cls(
            num_classes=options.num_classes,
            class_names=read_class_names(options.class_names) if options.class_names else (),
            input_size=read_size("--input-size", options.input_size) if options.input_size else None,
            mean=_numbers("--mean", options.mean),
            std=_numbers("--std", options.std),
        )


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


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"expected {option} as numbers separated by commas, one per channel, got {text!r}") from error
