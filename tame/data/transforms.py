"""From a photograph to a classifier's input: resize, crop, scale to [0, 1]; never normalise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tame.utils.checks import InputError, check_sides

CropKind = Literal["centre", "random", "random-flip"]
CROP_KINDS: tuple[CropKind, ...] = ("centre", "random", "random-flip")

Sides: TypeAlias = int | tuple[int, int]
"""One number of pixels, or (height, width)."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class CropValues(Protocol):
    """What a backbone's preprocessing says of geometry: pixels, filter, and number of channels."""

    @property
    def resize(self) -> Sides: ...  # noqa: D102 - the attributes of tame.backbones.Preprocessing
    @property
    def crop(self) -> Sides: ...  # noqa: D102
    @property
    def interpolation(self) -> str: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Crop:
    """Resize, cut out a square or rectangle, and scale to [0, 1], as torchvision does.

    Args:
        resize: Length of the short side after resizing, or (height, width) whatever the photograph's, pixels.
        crop: Side of the square, or (height, width), pixels. Where the resized photograph is smaller, it is padded
            with black.
        interpolation: ``bilinear`` or ``bicubic``, both with antialiasing.
        kind: ``centre``, ``random``, or ``random-flip`` (mirrored half the time).
        channels: 3 for RGB, 1 for grey.

    Example:
        >>> Crop(resize=8, crop=6)(Image.new("RGB", (20, 10), "white")).shape
        torch.Size([3, 6, 6])
        >>> Crop(resize=(8, 16), crop=(6, 16), channels=1)(Image.new("L", (20, 20))).shape
        torch.Size([1, 6, 16])
    """

    resize: Sides
    crop: Sides
    interpolation: str = "bilinear"
    kind: CropKind = "centre"
    channels: int = 3

    def __post_init__(self) -> None:
        check_sides("resize", self.resize)
        check_sides("crop", self.crop)
        if self.channels not in (1, 3):
            raise InputError(f"expected 1 or 3 channels for photographs, got {self.channels}")
        if self.interpolation not in _FILTERS:
            raise InputError(f"expected the interpolation bilinear or bicubic, got {self.interpolation!r}")
        if self.kind not in CROP_KINDS:
            raise InputError(f"expected one of the crops {', '.join(CROP_KINDS)}, got {self.kind!r}")

    @classmethod
    def of(cls, values: CropValues, kind: CropKind = "centre") -> Self:
        """Return the crop that a backbone's preprocessing describes."""
        return cls(values.resize, values.crop, values.interpolation, kind, values.channels)

    def __call__(self, photo: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        """Return the crop of a photograph.

        Args:
            photo: Image of mode RGB, or L for one channel.
            generator: Draws random crops; None: torch's own.

        Returns:
            (C, height, width) of the crop, in [0, 1].
        """
        size = resized_size(*photo.size, self.resize)
        if size != photo.size:
            photo = photo.resize(size, _FILTERS[self.interpolation])
        height, width = _pair(self.crop)
        start = _centre if self.kind == "centre" else partial(_anywhere, generator=generator)
        left, top = start(size[0], width), start(size[1], height)
        image = to_tensor(photo.crop((left, top, left + width, top + height)))
        if self.kind == "random-flip" and torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return image

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return what the centre crop shows of a photograph, see `crop_box`."""
        return crop_box(width, height, self.resize, self.crop)


def to_tensor(photo: Image.Image) -> Tensor:
    """Return an image of mode RGB or L as a float tensor (C, H, W) in [0, 1]."""
    values = torch.from_numpy(np.array(photo, ndmin=3))  # RGB: (H, W, 3); L: (1, H, W)
    if photo.mode != "L":
        values = values.permute(2, 0, 1).contiguous()
    return values.float().div(255)


def resized_size(width: int, height: int, resize: Sides) -> tuple[int, int]:
    """Return (width, height) after the short side became ``resize``, rounded down like torchvision.

    A pair ``resize`` is (height, width) itself.
    """
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def crop_box(width: int, height: int, resize: Sides, crop: Sides) -> tuple[float, float, float, float]:
    """Return the region of the original photograph that the centre crop shows.

    Args:
        width: Of the photograph, EXIF-corrected, pixels.
        height: Likewise.
        resize: Length of the short side after resizing, or (height, width), pixels.
        crop: Side of the square, or (height, width), pixels.

    Returns:
        (left, top, right, bottom) in pixels of the photograph; beyond its edges where the crop is padded.

    Example:
        >>> crop_box(640, 480, resize=240, crop=200)
        (120.0, 40.0, 520.0, 440.0)
        >>> crop_box(640, 480, resize=(24, 40), crop=(24, 20))
        (160.0, 0.0, 480.0, 480.0)
    """
    resized_width, resized_height = resized_size(width, height, resize)
    rows, columns = _pair(crop)
    left, top = _centre(resized_width, columns), _centre(resized_height, rows)
    across, down = width / resized_width, height / resized_height
    return left * across, top * down, (left + columns) * across, (top + rows) * down


def _pair(sides: Sides) -> tuple[int, int]:
    """Return (height, width)."""
    return (sides, sides) if isinstance(sides, int) else sides


def _centre(length: int, crop: int) -> int:
    """Return where a centred crop starts, rounded like torchvision; negative where it is padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _anywhere(length: int, crop: int, generator: torch.Generator | None) -> int:
    if length <= crop:
        return _centre(length, crop)
    return int(torch.randint(length - crop + 1, (), generator=generator))
