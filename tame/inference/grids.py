"""Grids of explanations: a row per method or backbone, a column per photograph or per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from tame.inference.result import Explanation
from tame.utils.checks import InputError
from tame.utils.io import replacing
from tame.visualize import Box, grid

Row = Sequence[Explanation]

COLUMNS = 6
"""Most columns of explanations on a page."""

_SIDE = 300  # of the square that each picture is fitted into, pixels


def image_grid(rows: Sequence[Row]) -> Image.Image:
    """Draw methods against photographs: the photographs in the first row, and below them a row per method.

    Photographs are cut to what the classifiers were shown. A column's title is its class with the confidence; where
    classifiers differ, each picture carries its own confidence. Rows are named by what they differ in: method,
    backbone, or both.

    Args:
        rows: Per method, one explanation of each photograph; a column has one photograph and one class.

    Returns:
        RGB image.

    Raises:
        InputError: For no explanations, rows of several lengths, or a column of several photographs or classes.

    Source: Ntrougkas et al., "T-TAME", IEEE Access 2024, Figs. 14 and 15.
    """
    titles, own = _titles(rows)
    boxes = [_shown(column) for column in zip(*rows, strict=True)]
    photographs = [_fitted(explanation.photo, box) for explanation, box in zip(rows[0], boxes, strict=True)]
    pictures = [[_picture(*cell, own) for cell in zip(row, boxes, strict=True)] for row in rows]
    return grid([photographs, *pictures], ["photograph", *_names_of(rows)], titles, _SIDE)


def class_grid(rows: Sequence[Row]) -> Image.Image:
    """Draw methods against classes: in each row the photograph, and beside it one method's explanation of each class.

    Cuts, titles and names are those of `image_grid`.

    Args:
        rows: Per method or backbone, the explanations of the same classes on one photograph.

    Returns:
        RGB image.

    Raises:
        InputError: For no explanations, rows of several lengths, several photographs, or a column of several classes.

    Source: Ntrougkas et al., "T-TAME", IEEE Access 2024, Figs. 17 and 18.
    """
    titles, own = _titles(rows)
    if len({_photograph(explanation) for explanation in rows[0]}) > 1:
        raise InputError("expected explanations of one photograph, got several")
    first, box = rows[0][0], _shown([row[0] for row in rows])
    photograph = _fitted(first.photo, box)
    pictures = [[photograph, *(_picture(explanation, box, own) for explanation in row)] for row in rows]
    return grid(pictures, _names_of(rows), [Path(first.file or "photograph").name, *titles], _SIDE)


class Grids:
    """The grids of a run, drawn as its photographs are explained: `image_grid`, or a `class_grid` per photograph.

    More than `COLUMNS` columns become pages: ``grid.png`` is one page, ``grid-1.png``, ``grid-2.png`` ... are several.

    Args:
        out: Folder that is written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._photographs = _Pages(out, "grid", image_grid)

    def add(self, name: str, rows: Sequence[Row], entries: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Add a photograph: one class becomes a column of ``grid.png``, several a ``NAME.grid.png``.

        Args:
            name: Of its files.
            rows: Per method, its explanations.
            entries: Their manifest entries, which learn the name of their ``grid``.
        """
        pages = self._photographs if len(rows[0]) == 1 else _Pages(self.out, f"{name}.grid", class_grid)
        for column, own in zip(zip(*rows, strict=True), zip(*entries, strict=True), strict=True):
            pages.add(column, own)
        if pages is not self._photographs:
            pages.close()

    def close(self) -> None:
        """Draw what is on no page yet."""
        self._photographs.close()


class _Pages:
    """Writes columns onto numbered pages; a page alone has no number."""

    def __init__(self, out: Path, stem: str, draw: Callable[[Sequence[Row]], Image.Image]) -> None:
        self.out = out
        self.stem = stem
        self.draw = draw
        self._columns: list[tuple[Row, Sequence[dict[str, Any]]]] = []  # that are on no page yet
        self._written = 0

    def add(self, column: Row, entries: Sequence[dict[str, Any]]) -> None:
        if len(self._columns) == COLUMNS:
            self._write(f"{self.stem}-{self._written + 1}.png")
        self._columns.append((column, entries))

    def close(self) -> None:
        if self._columns:
            self._write(f"{self.stem}-{self._written + 1}.png" if self._written else f"{self.stem}.png")

    def _write(self, name: str) -> None:
        page = self.draw(list(zip(*(column for column, _ in self._columns), strict=True)))
        with replacing(self.out / name) as temporary:
            page.save(temporary, format="PNG")
        for _, entries in self._columns:
            for entry in entries:
                entry["grid"] = name
        self._columns.clear()
        self._written += 1


def row_names(methods: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return what tells (backbone, method) pairs apart: the methods, the backbones, or both.

    Example:
        >>> row_names([("resnet50", "gradcam"), ("resnet50", "rise")])
        [('gradcam',), ('rise',)]
        >>> row_names([("resnet50", "gradcam"), ("vgg16", "gradcam")])
        [('resnet50',), ('vgg16',)]
    """
    pairs = list(methods)
    differ = [len(set(names)) > 1 for names in zip(*pairs, strict=True)]
    return [tuple(name for name, differs in zip(pair, differ, strict=True) if differs) or (pair[1],) for pair in pairs]


def _names_of(rows: Sequence[Row]) -> list[str]:
    return [", ".join(names) for names in row_names((row[0].backbone, row[0].method) for row in rows)]


def _titles(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Return the columns' titles, and whether each explanation needs its confidence of its own."""
    lengths = {len(row) for row in rows}
    if not lengths or 0 in lengths:
        raise InputError("expected at least one explanation to draw, got none")
    if len(lengths) > 1:
        raise InputError(f"expected rows of one length, got {sorted(lengths)}")
    columns = list(zip(*rows, strict=True))
    for place, column in enumerate(columns, 1):
        shown = {(*_photograph(explanation), explanation.target) for explanation in column}
        if len(shown) > 1:
            raise InputError(f"expected one photograph and one class per column, got {len(shown)} in column {place}")
    own = any(len({explanation.title for explanation in column}) > 1 for column in columns)
    return [f"{column[0].class_name} ({column[0].target})" if own else column[0].title for column in columns], own


def _photograph(explanation: Explanation) -> tuple[str | None, tuple[int, int]]:
    """Return what tells photographs apart."""
    return explanation.file, explanation.image_size


def _shown(column: Sequence[Explanation]) -> Box:
    """Return the part of a photograph (left, top, right, bottom) that any of the classifiers was shown, pixels."""
    photo = column[0].photo
    scale = photo.width / column[0].image_size[0]
    left, top, right, bottom = (
        [scale * edge for edge in edges] for edges in zip(*(explanation.crop for explanation in column), strict=True)
    )
    return max(0, min(left)), max(0, min(top)), min(photo.width, max(right)), min(photo.height, max(bottom))


def _picture(explanation: Explanation, box: Box, own: bool) -> Image.Image:
    """Draw what ``box`` has of an explanation, in its corner its ``own`` confidence if asked for."""
    picture = _fitted(explanation.overlay(), box)
    if own:
        text = f"{100 * explanation.confidence:.1f} %"
        ImageDraw.Draw(picture).text((7, 4), text, "white", font_size=18, stroke_width=2, stroke_fill="black")
    return picture


def _fitted(picture: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = map(round, box)
    return ImageOps.contain(picture.crop((left, top, right, bottom)), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
