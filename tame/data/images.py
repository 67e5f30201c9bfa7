"""Read image files of any format and mode as upright 8-bit RGB or grey images."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tame.utils.checks import InputError
from tame.utils.time_limit import time_limit

logger = logging.getLogger("tame")

_RANGES = (1, 255, 4095, 65535)  # largest values of floats in [0, 1], and of integers of 8, 12 and 16 bits
_OVERSHOOT = 1.25  # floats exceed their range by up to this factor, for example after a bicubic interpolation
_BLOCK = 1 << 20  # pixels of images of more than 8 bits that are scaled at once
_PATIENCE = 60.0  # longest time to decode an image, in seconds
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)  # a Path has one of the slashes of http://


def check_no_address(path: str | Path) -> None:
    """Check that a path is not the address of an image elsewhere, such as ``https://...``.

    Raises:
        InputError: For an address.
    """
    if _ADDRESS.match(str(path)) and not _exists(path):
        address = str(path) if len(str(path)) <= 100 else f"{str(path)[:100]}..."
        raise InputError(f"expected an image file, got the address {address}: download the image first")


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False


def load_image(path: str | Path, channels: int = 3) -> Image.Image:
    """Read an image file; of animations, the first frame.

    Args:
        path: Image file in any format that Pillow reads.
        channels: 3 for RGB, 1 for grey.

    Returns:
        Image of mode RGB or L, rotated by its EXIF orientation, transparent pixels composited over white.

    Raises:
        InputError: If the file cannot be read, with its path and the reason in one sentence: no image, PostScript, too
            many pixels, damaged, or not decoded within a minute (as far as `time_limit` can interrupt a decoder).
    """
    path = Path(path)
    check_file(path)
    try:
        with time_limit(_PATIENCE), Image.open(path) as image:
            if image.format == "EPS":
                raise InputError(f"cannot read {path}: expected an image, got PostScript, which is a program")
            return to_photo(image, channels, source=str(path.parent))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"cannot read {path}: expected an image, got a file of another kind") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"cannot read {path}: it has too many pixels ({_one_line(error)})") from error
    except Exception as error:  # on broken files, decoders raise errors of almost any kind
        raise InputError(f"cannot read {path}: it cannot be decoded ({_one_line(error)})") from error


def check_file(path: Path) -> None:
    """Check that a path is a file that is not empty.

    Raises:
        InputError: For an address, a folder, or a file that is missing or empty.
    """
    check_no_address(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"cannot read {path}: it is no name of a file ({error})") from error
    if path.is_dir():
        raise InputError(f"cannot read {path}: expected an image file, got a folder")
    if not size:
        raise InputError(f"cannot read {path}: the file is empty")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def to_photo(image: Image.Image, channels: int = 3, source: str = "an image in memory") -> Image.Image:
    """Convert an image of any mode to upright 8-bit RGB, or to grey for ``channels`` = 1.

    Transparent images are composited over white. Grey values of more than 8 bits are scaled from the smallest of these
    ranges that contains the largest finite value: 0..255, 0..4095 and 0..65535; floats also 0..1, and they may exceed a
    range by a quarter. Values above 65535 are scaled from 0 to the largest one. Values outside of the range are
    clipped; NaN is black. Unless the range is that of the file's format (16-bit: 0..65535), it is logged, once per
    ``source`` and range.

    Args:
        image: Image of any mode.
        channels: 3 for RGB, 1 for grey.
        source: What the message names, such as the image's folder.

    Raises:
        InputError: For another number of channels.

    Example:
        >>> to_photo(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
        (255, 255, 255)
    """
    if channels not in (1, 3):
        raise InputError(f"expected an image of 1 or 3 channels, got {channels}")
    image.load()  # before the EXIF data, which may follow the pixels
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise it would be copied
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_bytes(np.asarray(image), source))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def _to_bytes(values: np.ndarray, source: str) -> np.ndarray:
    """Scale integers of 16 or 32 bits, or floats (H, W), to 0..255, see `to_photo`."""
    blocks = np.array_split(values, 1 + values.size // _BLOCK)  # floats of all values would take many times the image
    largest = float(max(block[np.isfinite(block)].max(initial=0) for block in blocks))
    floats = np.issubdtype(values.dtype, np.floating)
    ranges, factor = (_RANGES, _OVERSHOOT) if floats else (_RANGES[1:], 1.0)
    top = next((each for each in ranges if largest <= factor * each), None)
    if largest and not (values.dtype.itemsize == 2 and top == _RANGES[-1]):
        kind = "float" if floats else f"{8 * values.dtype.itemsize}-bit integer"
        _say_range(source, kind, "0 to the largest value of each image" if top is None else f"0..{top}")
    return np.concatenate([_scaled(block, 255 / (top or largest)) for block in blocks])


def _scaled(values: np.ndarray, factor: float) -> np.ndarray:
    """Multiply values by a factor and round them to bytes; NaN becomes 0."""
    scaled = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=-np.inf) * factor
    return scaled.round().clip(0, 255).astype(np.uint8)


@cache
def _say_range(source: str, kind: str, assumed: str) -> None:
    logger.warning(
        "%s: %s grey values are scaled from the range %s, assumed by their largest value.", source, kind, assumed
    )


def array_to_photo(values: np.ndarray | Tensor) -> Image.Image:
    """Convert an array to an 8-bit RGB image.

    Args:
        values: (C, H, W), (H, W, C) or (H, W) with 1 or 3 channels; uint8, or floats in [0, 1] of any precision.

    Raises:
        InputError: For another shape, dtype or range.

    Example:
        >>> array_to_photo(np.zeros((3, 20, 40))).size
        (40, 20)
    """
    array = _to_array(values)
    shape = array.shape
    if array.ndim == 3 and shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[2] in (1, 3):
        array = np.broadcast_to(array, (*array.shape[:2], 3))
    elif array.ndim != 2:
        raise InputError(f"expected an image of shape (C, H, W) or (H, W, C) with 1 or 3 channels, got {shape}")
    if np.issubdtype(array.dtype, np.floating) and array.size:
        if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
            raise InputError(f"expected an image in [0, 1], got values in [{array.min():.4g}, {array.max():.4g}]")
        array = (array * 255).round().clip(0, 255).astype(np.uint8)
    if array.dtype != np.uint8 or not array.size:
        raise InputError(f"expected an image of uint8, or of floats in [0, 1], got {array.dtype} {shape}")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def channels_to_photo(image: Tensor, channels: Sequence[int] | None = None) -> Image.Image:
    """Convert a tensor of any number of channels to an 8-bit RGB image.

    Args:
        image: (C, H, W) in [0, 1].
        channels: Channels that become red, green and blue, or one that becomes grey; default: the first three, of fewer
            the first.

    Example:
        >>> import torch
        >>> channels_to_photo(torch.arange(10).div(255).view(10, 1, 1), (9, 4, 0)).getpixel((0, 0))
        (9, 4, 0)
    """
    return array_to_photo(image[list(channels or ((0, 1, 2) if len(image) >= 3 else (0,)))])


def _to_array(values: np.ndarray | Tensor) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach()
    try:
        return (values.float() if values.is_floating_point() else values).cpu().numpy()  # numpy has no bfloat16
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantised, without data
        raise InputError(f"expected a dense image tensor, got {values.dtype}, {values.layout}: {error}") from error
