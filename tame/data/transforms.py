"""Resize and crop images and scale them to [0, 1]; normalisation is left to the classifier."""

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
"""Number of pixels, or (height, width)."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_LARGEST = 1 << 24  # pixels of an image that is resized as a whole, 64 MiB


class CropValues(Protocol):
    """The attributes of `tame.classifier.Preprocessing` that determine the crop."""

    @property
    def resize(self) -> Sides: ...  # noqa: D102 - see Preprocessing
    @property
    def crop(self) -> Sides: ...  # noqa: D102
    @property
    def interpolation(self) -> str: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Crop:
    """Resize, crop and scale an image to [0, 1], as torchvision does.

    Of an image that would have more than 2^24 pixels after resizing, such as one of 65000 x 1 pixels, only the crop's
    region is resized. The result is that of resizing it all, up to rounding: 1/255 for bilinear interpolation, more
    at single pixels for bicubic interpolation, whose overshoots are clipped after the other axis.

    Args:
        resize: Length of the short side after resizing, or a fixed (height, width) regardless of the aspect ratio, in
            pixels.
        crop: Side of the square crop, or its (height, width), in pixels. A smaller resized image is padded with black.
        interpolation: ``bilinear`` or ``bicubic``, both with antialiasing.
        kind: ``centre``, ``random``, or ``random-flip`` (random, and mirrored with probability 1/2).
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: For sides below one pixel, another number of channels, or an unknown interpolation or kind.

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
            raise InputError(f"expected images of 1 or 3 channels, got {self.channels}")
        if self.interpolation not in _FILTERS:
            raise InputError(f"expected the interpolation bilinear or bicubic, got {self.interpolation!r}")
        if self.kind not in CROP_KINDS:
            raise InputError(f"expected one of the crops {', '.join(CROP_KINDS)}, got {self.kind!r}")

    @classmethod
    def of(cls, values: CropValues, kind: CropKind = "centre") -> Self:
        """Return the crop that a backbone's preprocessing describes."""
        return cls(values.resize, values.crop, values.interpolation, kind, values.channels)

    def __call__(self, photo: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        """Return the crop of an image.

        Args:
            photo: Image of mode RGB, or L for one channel.
            generator: Random generator for random crops; default: torch's global one.

        Returns:
            (C, height, width) of the crop, in [0, 1].
        """
        size = resized_size(*photo.size, self.resize)
        height, width = _pair(self.crop)
        start = _centre if self.kind == "centre" else partial(_anywhere, generator=generator)
        left, top = start(size[0], width), start(size[1], height)
        box = left, top, left + width, top + height
        image = to_tensor(_resized(photo, size, _FILTERS[self.interpolation], box))
        if self.kind == "random-flip" and torch.rand((), generator=generator) < 0.5:
            image = image.flip(-1)
        return image

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the region of an image that the centre crop shows, see `crop_box`."""
        return crop_box(width, height, self.resize, self.crop)


def _resized(
    photo: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: tuple[int, int, int, int]
) -> Image.Image:
    """Return the ``box`` (left, top, right, bottom) of an image resized to ``size``, black outside of it."""
    if size == photo.size:
        return photo.crop(box)
    if size[0] * size[1] <= _LARGEST:
        return photo.resize(size, resample).crop(box)
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3])
    (width, height), (across, down) = size, photo.size
    source = left * across / width, top * down / height, right * across / width, bottom * down / height
    part = photo.resize((right - left, bottom - top), resample, source)
    return part.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def to_tensor(photo: Image.Image) -> Tensor:
    """Convert an image of mode RGB or L to a float tensor (C, H, W) in [0, 1]."""
    values = torch.from_numpy(np.array(photo, ndmin=3))  # RGB: (H, W, 3); L: (1, H, W)
    if photo.mode != "L":
        values = values.permute(2, 0, 1).contiguous()
    return values.float().div(255)


def resized_size(width: int, height: int, resize: Sides) -> tuple[int, int]:
    """Return (width, height) after resizing the short side to ``resize``, rounded down as in torchvision.

    If ``resize`` is a pair (height, width), it is the result itself.
    """
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def crop_box(width: int, height: int, resize: Sides, crop: Sides) -> tuple[float, float, float, float]:
    """Return the region of the original image that the centre crop shows.

    Args:
        width: Width of the image after EXIF rotation, in pixels.
        height: Height of the image after EXIF rotation, in pixels.
        resize: Length of the short side after resizing, or (height, width), in pixels.
        crop: Side of the square crop, or its (height, width), in pixels.

    Returns:
        (left, top, right, bottom) in pixels of the original image; outside of it where the crop is padded.

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
    """Return the start of a centred crop, rounded as in torchvision; negative if the crop is padded."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _anywhere(length: int, crop: int, generator: torch.Generator | None) -> int:
    if length <= crop:
        return _centre(length, crop)
    return int(torch.randint(length - crop + 1, (), generator=generator))
