"""Pictures of explanations: heat maps over images, and images side by side with titles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tame.utils.checks import InputError, shown

Box: TypeAlias = tuple[float, float, float, float]

_DIMMED = 0.45  # brightness outside the crop
_INK, _PAPER = (34, 34, 34), (255, 255, 255)


def overlay(
    image: Image.Image,
    map: np.ndarray | Tensor,
    crop_box: Box | None = None,
    alpha: float = 0.5,
    colormap: str = "jet",
) -> Image.Image:
    """Blend a heat map with the image that it explains.

    The map is upsampled bilinearly (``align_corners=False``) to the crop box. The rest of the image, which the
    classifier was not shown, is drawn dark and in grey.

    Args:
        image: Uncropped image, any mode.
        map: (h, w) in [0, 1].
        crop_box: (left, top, right, bottom) of the region that the map covers, in pixels of the image, rounded to
            integers, at least one pixel wide and high; may extend beyond its edges. Default: the whole image.
        alpha: Opacity of the map: 0 shows only the image, 1 only the map.
        colormap: Name of a matplotlib colour map.

    Returns:
        RGB image of the size of ``image``.

    Raises:
        InputError: For a map of another shape or range, an empty box, or an unknown colour map.

    Example:
        >>> overlay(Image.new("RGB", (40, 30)), np.eye(4), crop_box=(5, 0, 35, 30)).size
        (40, 30)
    """
    values = _checked_map(map)
    if not 0 <= alpha <= 1:
        raise InputError(f"expected alpha in [0, 1], got {alpha}")
    image = image.convert("RGB")
    left, top, right, bottom = pixel_box(crop_box or (0, 0, *image.size))
    size = (right - left, bottom - top)
    colours = _coloured(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), colormap)
    blended = Image.blend(image.crop((left, top, right, bottom)), colours, alpha)
    canvas = image.convert("L").point([round(level * _DIMMED) for level in range(256)]).convert("RGB")
    canvas.paste(blended, (left, top))  # clipped at the edges of the image
    return canvas


def pixel_box(box: Box) -> tuple[int, int, int, int]:
    """Round a box (left, top, right, bottom) to whole pixels, at least one wide and high.

    Raises:
        InputError: For an empty box.

    Example:
        >>> pixel_box((0.1, 19.6, 0.9, 60.4))
        (0, 20, 1, 60)
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise InputError(f"expected a box (left, top, right, bottom) that is not empty, got {box}")
    (left, right), (top, bottom) = _whole(left, right), _whole(top, bottom)
    return left, top, right, bottom


def _whole(start: float, end: float) -> tuple[int, int]:
    if round(start) < round(end):
        return round(start), round(end)
    middle = math.floor((start + end) / 2)
    return middle, middle + 1


def _checked_map(values: np.ndarray | Tensor) -> np.ndarray:
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
    if array.ndim != 2 or not array.size:
        raise InputError(f"expected a map of shape (h, w), got {array.shape}")
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
        raise InputError(f"expected a map in [0, 1], got values in [{array.min():.4g}, {array.max():.4g}]")
    return array


def _coloured(values: Image.Image, colormap: str) -> Image.Image:
    """Apply a colour map to an image of mode F in [0, 1]; return it as RGB."""
    from matplotlib import colormaps

    if colormap not in colormaps:
        raise InputError(f"unknown colour map {colormap!r}: expected one of matplotlib's, such as jet or viridis")
    table = colormaps[colormap](np.linspace(0, 1, 256), bytes=True)[:, :3].astype(np.uint8)  # (256, 3)
    levels = (np.asarray(values).clip(0, 1) * 255).round().astype(np.uint8)  # (H, W)
    return Image.fromarray(table[levels])


def figure(panels: Sequence[tuple[str, Image.Image]], side: int = 400) -> Image.Image:
    """Draw pictures side by side, each with its title above.

    Args:
        panels: (title, picture); long titles are wrapped.
        side: Side of the square that each picture is fitted into, in pixels.

    Returns:
        RGB image.

    Raises:
        InputError: If there are no panels.

    Example:
        >>> figure([("cat (0) 98.1 %", Image.new("RGB", (60, 40)))], side=100).mode
        'RGB'
    """
    return grid([[picture for _, picture in panels]], column_titles=[title for title, _ in panels], side=side)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    side: int = 400,
) -> Image.Image:
    """Draw a table of pictures.

    Args:
        rows: Pictures, the same number in each row; their aspect ratios are kept.
        row_titles: One per row, on the left; default: no titles.
        column_titles: One per column, above it; default: no titles.
        side: Side of the square that each picture is fitted into, in pixels.

    Returns:
        RGB image.

    Raises:
        InputError: For no pictures, rows of different lengths, or a wrong number of titles.
    """
    _check_table(rows, row_titles, column_titles)
    font, gap = _font(8 + side // 32), max(2, side // 25)
    cells = [[_fitted(picture, side) for picture in row] for row in rows]
    widths = [max(round(side * 0.6), *(cell.width for cell in column)) for column in zip(*cells, strict=True)]
    above = [
        _wrapped(text, width, font) for text, width in zip(column_titles or [""] * len(widths), widths, strict=True)
    ]
    beside = [_wrapped(text, side // 2, font) for text in row_titles or [""] * len(rows)]
    heights = [
        max(_text_size(text, font)[1], *(cell.height for cell in row)) for text, row in zip(beside, cells, strict=True)
    ]
    left = gap + (max(_text_size(text, font)[0] for text in beside) + gap if row_titles else 0)
    top = gap + (max(_text_size(text, font)[1] for text in above) + gap // 2 if column_titles else 0)
    xs, ys = _starts(widths, left, gap), _starts(heights, top, gap)  # the last entry is the canvas size
    canvas = Image.new("RGB", (xs[-1], ys[-1]), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, width, text in zip(xs, widths, above, strict=False):
        draw.multiline_text((x + width / 2, top - gap // 2), text, _INK, font, anchor="md", align="center")
    for y, height, text, row in zip(ys, heights, beside, cells, strict=False):
        draw.multiline_text((left - gap, y + height / 2), text, _INK, font, anchor="rm", align="right")
        for x, width, cell in zip(xs, widths, row, strict=False):
            canvas.paste(cell, (x + (width - cell.width) // 2, y + (height - cell.height) // 2))
    return canvas


def _starts(lengths: Sequence[int], first: int, gap: int) -> list[int]:
    return list(accumulate((length + gap for length in lengths), initial=first))


def _check_table(
    rows: Sequence[Sequence[Image.Image]], row_titles: Sequence[str], column_titles: Sequence[str]
) -> None:
    lengths = {len(row) for row in rows}
    if not lengths or 0 in lengths:
        raise InputError("expected at least one picture to draw, got none")
    if len(lengths) > 1:
        raise InputError(f"expected rows of equal length, got {sorted(lengths)}")
    for kind, titles, count in (("row", row_titles, len(rows)), ("column", column_titles, lengths.pop())):
        if titles and len(titles) != count:
            raise InputError(f"expected {count} {kind} titles, got {len(titles)}")


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture to fit into a square of ``side`` pixels, keeping its aspect ratio."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _text_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Return (width, height) of one or more lines of text, in pixels."""
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(box[2]), round(box[3])


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Wrap text to lines of at most ``width`` pixels, at spaces, or within words that are too long."""
    lines = [""]
    for word in shown(" ".join(text.split())).replace(" %", "\N{NO-BREAK SPACE}%").split(" "):
        joined = f"{lines[-1]} {word}".strip(" ")
        if font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines += _pieces(word, width, font)
    return "\n".join(line for line in lines if line)


def _pieces(word: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
