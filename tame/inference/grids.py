"""Grids of explanations: a row per method or backbone, a column per image or per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tame.explainers.build import MethodName
from tame.inference.result import Explanation, Failure, failure_of
from tame.utils.checks import InputError
from tame.utils.io import replacing
from tame.visualize import Box, grid, pixel_box

Row = Sequence[Explanation]

COLUMNS = 6
"""Largest number of columns of explanations on a page."""

_SIDE = 300  # side of the square that each picture is fitted into, in pixels


def image_grid(rows: Sequence[Row]) -> Image.Image:
    """Draw a grid of methods and images: the images in the first row, then a row per method.

    Images are cropped to the region that the classifiers were shown. A column's title is the class with its
    confidence; where classifiers differ, the confidence is drawn in each picture instead. Rows are titled by what
    differs between them: method, backbone, or both.

    Args:
        rows: Per method, one explanation of each image; all explanations of a column are of one image and class.

    Returns:
        RGB image.

    Raises:
        InputError: For no explanations, rows of different lengths, or a column of several images or classes.

    Source: Ntrougkas et al., "T-TAME", IEEE Access 2024, Figs. 14 and 15.
    """
    titles, own = _column_titles(rows)
    boxes = [_shown_box(column) for column in zip(*rows, strict=True)]
    images = [_fitted(explanation.image, box) for explanation, box in zip(rows[0], boxes, strict=True)]
    pictures = [[_picture(*cell, own) for cell in zip(row, boxes, strict=True)] for row in rows]
    return grid([images, *pictures], ["image", *_row_titles(rows)], titles, _SIDE)


def class_grid(rows: Sequence[Row]) -> Image.Image:
    """Draw a grid of methods and classes: in each row the image, then one method's explanation of each class.

    Cropping and titles are those of `image_grid`.

    Args:
        rows: Per method or backbone, the explanations of the same classes of one image.

    Returns:
        RGB image.

    Raises:
        InputError: For no explanations, rows of different lengths, several images, or a column of several classes.

    Source: Ntrougkas et al., "T-TAME", IEEE Access 2024, Figs. 17 and 18.
    """
    titles, own = _column_titles(rows)
    if len({_image_key(explanation) for explanation in rows[0]}) > 1:
        raise InputError("expected explanations of one image, got several")
    first, box = rows[0][0], _shown_box([row[0] for row in rows])
    image = _fitted(first.image, box)
    pictures = [[image, *(_picture(explanation, box, own) for explanation in row)] for row in rows]
    return grid(pictures, _row_titles(rows), [Path(first.file or "image").name, *titles], _SIDE)


class Grids:
    """Writes grids while images are being explained: an `image_grid` of all, or a `class_grid` of each.

    A grid of more than `COLUMNS` columns is split into pages: a single page is ``grid.png``, several are
    ``grid-1.png``, ``grid-2.png`` and so on.

    Args:
        out: Folder to write to.

    Attributes:
        failures: Pages that could not be drawn; their entries name no ``grid``.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.failures: list[Failure] = []
        self._images = _Pages(out, "grid", image_grid, self.failures)

    def add(self, name: str, rows: Sequence[Row], entries: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Add an image: with one class it becomes a column of ``grid.png``, with several ``NAME.grid.png``.

        Args:
            name: Start of the image's file names.
            rows: Per method, the explanations of the image.
            entries: Their manifest entries; each receives the name of its ``grid``.
        """
        pages = self._images if len(rows[0]) == 1 else _Pages(self.out, f"{name}.grid", class_grid, self.failures)
        for column, own in zip(zip(*rows, strict=True), zip(*entries, strict=True), strict=True):
            pages.add(column, own)
        if pages is not self._images:
            pages.close()

    def close(self) -> None:
        """Write the last page."""
        self._images.close()


class _Pages:
    """Writes columns to numbered pages; a single page has no number."""

    def __init__(
        self, out: Path, stem: str, draw: Callable[[Sequence[Row]], Image.Image], failures: list[Failure]
    ) -> None:
        self.out = out
        self.failures = failures
        self.stem = stem
        self.draw = draw
        self._columns: list[tuple[Row, Sequence[dict[str, Any]]]] = []  # not yet on a page
        self._written = 0

    def add(self, column: Row, entries: Sequence[dict[str, Any]]) -> None:
        if len(self._columns) == COLUMNS:
            self._write(_page_name(self.stem, self._written + 1))
        self._columns.append((column, entries))

    def close(self) -> None:
        if self._columns:
            self._write(_page_name(self.stem, self._written + 1 if self._written else None))

    def _write(self, name: str) -> None:
        rows = list(zip(*(column for column, _ in self._columns), strict=True))
        written, self._columns = self._columns, []
        self._written += 1
        try:
            page = self.draw(rows)
        except Exception as error:
            self.failures.append(failure_of("draw", name, error))
            return
        with replacing(self.out / name) as temporary:
            page.save(temporary, format="PNG")
        for _, entries in written:
            for entry in entries:
                entry["grid"] = name


def grid_names(names: Sequence[str], classes: int) -> list[str]:
    """Return the names of all files that `Grids` may write.

    Args:
        names: Start of each image's file names.
        classes: Number of classes per image.
    """
    stems = ["grid"] if classes == 1 else [f"{name}.grid" for name in names]
    pages = -(-(len(names) if classes == 1 else classes) // COLUMNS)
    return [_page_name(stem, number) for stem in stems for number in (None, *range(1, pages + 1))]


def _page_name(stem: str, number: int | None) -> str:
    return f"{stem}.png" if number is None else f"{stem}-{number}.png"


def row_names(methods: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return what distinguishes (backbone, method) pairs: the methods, the backbones, or both.

    Example:
        >>> row_names([("resnet50", "gradcam"), ("resnet50", "rise")])
        [('gradcam',), ('rise',)]
        >>> row_names([("resnet50", "gradcam"), ("vgg16", "gradcam")])
        [('resnet50',), ('vgg16',)]
    """
    pairs = list(methods)
    differ = [len(set(names)) > 1 for names in zip(*pairs, strict=True)]
    return [tuple(name for name, differs in zip(pair, differ, strict=True) if differs) or (pair[1],) for pair in pairs]


def method_titles(methods: Iterable[str]) -> dict[str, str]:
    """Return the names of methods for pictures; those of one title are told apart by checkpoint or full name.

    Example:
        >>> method_titles(["gradcam++", "ttame@runs/a", "ttame@runs/b"])
        {'gradcam++': 'Grad-CAM++', 'ttame@runs/a': 'T-TAME (runs/a)', 'ttame@runs/b': 'T-TAME (runs/b)'}
    """
    names = {method: MethodName.of(method) for method in methods}
    count = Counter(name.title for name in names.values())
    return {
        method: name.title if count[name.title] == 1 else f"{name.title} ({name.checkpoint or name.name})"
        for method, name in names.items()
    }


def _row_titles(rows: Sequence[Row]) -> list[str]:
    titles = method_titles(row[0].method for row in rows)
    return [", ".join(names) for names in row_names((row[0].backbone, titles[row[0].method]) for row in rows)]


def _column_titles(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Return the columns' titles, and whether each picture needs its own confidence."""
    lengths = {len(row) for row in rows}
    if not lengths or 0 in lengths:
        raise InputError("expected at least one explanation to draw, got none")
    if len(lengths) > 1:
        raise InputError(f"expected rows of equal length, got {sorted(lengths)}")
    columns = list(zip(*rows, strict=True))
    for place, column in enumerate(columns, 1):
        shown = {(*_image_key(explanation), explanation.target) for explanation in column}
        if len(shown) > 1:
            raise InputError(f"expected one image and one class per column, got {len(shown)} in column {place}")
    own = any(len({explanation.title for explanation in column}) > 1 for column in columns)
    return [f"{column[0].class_name} ({column[0].target})" if own else column[0].title for column in columns], own


def _image_key(explanation: Explanation) -> tuple[str | None, tuple[int, int]]:
    """Return what distinguishes images."""
    return explanation.file, explanation.image_size


def _shown_box(column: Sequence[Explanation]) -> Box:
    """Return the smallest box of an image (left, top, right, bottom, in pixels) that any classifier was shown."""
    image = column[0].image
    left, top, right, bottom = zip(*(explanation.drawn_crop for explanation in column), strict=True)
    return max(0, min(left)), max(0, min(top)), min(image.width, max(right)), min(image.height, max(bottom))


def _picture(explanation: Explanation, box: Box, own: bool) -> Image.Image:
    """Draw an explanation within ``box``, with its ``own`` confidence in the corner if asked for."""
    picture = _fitted(explanation.overlay(), box)
    if own:
        text = f"{100 * explanation.confidence:.1f} %"
        ImageDraw.Draw(picture).text((7, 4), text, "white", font_size=18, stroke_width=2, stroke_fill="black")
    return picture


def _fitted(picture: Image.Image, box: Box) -> Image.Image:
    picture = picture.crop(pixel_box(box))
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
