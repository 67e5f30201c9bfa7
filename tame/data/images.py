"""Read image files of any format and mode as upright 8-bit RGB or grey images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tame.utils.checks import InputError


def load_image(path: str | Path, channels: int = 3) -> Image.Image:
    """Read an image file; of animations, the first frame.

    Args:
        path: Image file in any format that Pillow reads.
        channels: 3 for RGB, 1 for grey.

    Returns:
        Image of mode RGB or L, rotated by its EXIF orientation, transparent pixels composited over white.

    Raises:
        InputError: If the file cannot be read, with its path and the reason in one sentence.
    """
    path = Path(path)
    _check_file(path)
    try:
        with Image.open(path) as image:
            return to_photo(image, channels)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"cannot read {path}: expected an image, got a file of another kind") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"cannot read {path}: it has too many pixels ({_one_line(error)})") from error
    except Exception as error:  # on broken files, decoders raise errors of almost any kind
        raise InputError(f"cannot read {path}: it cannot be decoded ({_one_line(error)})") from error


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if path.is_dir():
        raise InputError(f"cannot read {path}: expected an image file, got a folder")
    if not size:
        raise InputError(f"cannot read {path}: the file is empty")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def to_photo(image: Image.Image, channels: int = 3) -> Image.Image:
    """Convert an image of any mode to upright 8-bit RGB, or to grey for ``channels`` = 1.

    Transparent images are composited over white. 16-bit grey values are divided by 65535. Floats are taken as values
    in [0, 1] if none is larger than 1, otherwise in [0, 255].

    Raises:
        InputError: For another number of channels.

    Example:
        >>> to_photo(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
        (255, 255, 255)
    """
    if channels not in (1, 3):
        raise InputError(f"expected an image of 1 or 3 channels, got {channels}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit or float values (H, W) to 0..255."""
    scaled = np.nan_to_num(values.astype(np.float32))
    if np.issubdtype(values.dtype, np.floating):
        scaled = scaled * 255 if scaled.max() <= 1 else scaled
    else:
        scaled = scaled * (255 / 65535)
    return scaled.round().clip(0, 255).astype(np.uint8)


def array_to_photo(values: np.ndarray | Tensor) -> Image.Image:
    """Convert an array to an 8-bit RGB image.

    Args:
        values: (C, H, W), (H, W, C) or (H, W) with 1 or 3 channels; uint8, or floats in [0, 1].

    Raises:
        InputError: For another shape, dtype or range.

    Example:
        >>> array_to_photo(np.zeros((3, 20, 40))).size
        (40, 20)
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
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
