"""ROAD curves: confidence and accuracy as the most or the least relevant pixels are removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tame.utils.checks import InputError
from tame.utils.io import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "morf_confidence": ("MoRF: lower is better", "mean confidence (%)"),
    "morf_kept": ("MoRF: lower is better", "accuracy, top-1 unchanged (%)"),
    "lerf_confidence": ("LeRF: higher is better", "mean confidence (%)"),
    "lerf_kept": ("LeRF: higher is better", "accuracy, top-1 unchanged (%)"),
}
"""Panels of `road_curves`, two per row: name, (title, label of the vertical axis)."""

_COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"  # no yellow
_DASHES: tuple[tuple[float, ...], ...] = (1, 0), (5, 1.5), (1.2, 1.2), (5, 1.5, 1.2, 1.5)
_MARKERS = "osD^vXP<>*ph"
_INK, _GRID = "#222222", "#DDDDDD"


class RoadCurves(NamedTuple):
    """The data of `road_curves`.

    Attributes:
        removes: Fractions of removed pixels, increasing, in (0, 1].
        values: Percentages for each of ``removes``, by method and by panel (see `PANELS`).
        errors: Standard errors of the values, drawn as bands; default: no bands.
        start: Percentages for unmodified images, by reading (``confidence``, ``kept``); all curves start there.
            Default: curves start at the first fraction.
        title: Title of the page; default: none.
    """

    removes: Sequence[float]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    errors: Mapping[str, Mapping[str, Sequence[float]]] = {}
    start: Mapping[str, float] = {}
    title: str | None = None


def road_curves(curves: RoadCurves, path: str | Path) -> tuple[Path, Path]:
    """Draw ROAD curves on one page: MoRF above LeRF, mean confidence on the left, accuracy on the right.

    The colours can be distinguished by colour-blind readers (Okabe and Ito, "Color universal design", 2008); dashes
    and markers also differ, for printing in grey.

    Args:
        curves: The data; the legend lists the methods in their order.
        path: Path of the two files, with or without a suffix; missing folders are created.

    Returns:
        The PNG file and the PDF file.

    Raises:
        InputError: For no method, a method without one of the panels, or a wrong number of values.

    Example:
        >>> from tempfile import mkdtemp
        >>> falling = dict.fromkeys(PANELS, [80.0, 30.0])
        >>> [path.name for path in road_curves(RoadCurves([0.1, 0.5], {"rise": falling}), f"{mkdtemp()}/road")]
        ['road.png', 'road.pdf']
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    _check(curves)
    columns = min(len(curves.values), 4)
    legend_rows = -(-len(curves.values) // columns)
    page = Figure(
        figsize=(9.5, 7.2 + 0.25 * legend_rows),
        layout=ConstrainedLayoutEngine(wspace=0.05, hspace=0.03),
        facecolor="white",
    )
    panels = page.subplots(2, 2, sharex=True)
    for axes, (name, labels) in zip(panels.flat, PANELS.items(), strict=True):
        _draw(axes, curves, name)
        dress(axes, *labels)
    for axes in panels[1]:
        axes.set_xlabel("removed pixels (%)", fontsize=9.5, color=_INK)
    if curves.title:
        page.suptitle(curves.title, fontsize=12, color=_INK)
    lines, names = panels[0, 0].get_legend_handles_labels()
    page.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=10, handlelength=3.5)
    stem = Path(path).with_suffix("") if Path(path).suffix.lower() in (".png", ".pdf") else Path(path)
    png, pdf = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf"))
    for file, metadata in ((png, {}), (pdf, {"CreationDate": None})):  # reproducible files: no creation date
        with replacing(file) as temporary:
            page.savefig(temporary, format=file.suffix[1:], dpi=200, metadata=metadata)
    return png, pdf


def _check(curves: RoadCurves) -> None:
    if not curves.values or not len(curves.removes):
        raise InputError(
            f"expected methods and fractions to draw, got {list(curves.values)} and {list(curves.removes)}"
        )
    for kind, found in (("values", curves.values), ("errors", curves.errors)):
        for method, lines in found.items():
            for panel in PANELS:
                count = len(lines.get(panel, ()))
                if count != len(curves.removes):
                    raise InputError(f"expected {len(curves.removes)} {kind} of {panel}, got {count} of {method}")


def _draw(axes: Axes, curves: RoadCurves, panel: str) -> None:
    """Plot each method's line, and its standard errors as a band."""
    begin = [curves.start[reading] for reading in curves.start if panel.endswith(f"_{reading}")]
    x = np.array([0.0] * len(begin) + [100 * remove for remove in curves.removes])
    for (method, lines), style in zip(curves.values.items(), styles(), strict=False):
        y = np.array([*begin, *lines[panel]])
        axes.plot(x, y, label=method, markevery=range(len(begin), len(x)), **style)
        if method in curves.errors:
            error = np.array([0.0] * len(begin) + [*curves.errors[method][panel]])
            axes.fill_between(x, y - error, y + error, color=style["color"], alpha=0.12, linewidth=0)


def styles() -> Iterator[dict[str, Any]]:
    """Yield an endless series of line styles; the first 12 differ in marker, the first 28 in colour or dashes."""
    for number in count():
        turn, place = divmod(number, len(_COLOURS))
        colour, marker = _COLOURS[place], _MARKERS[number % len(_MARKERS)]
        yield {
            "color": colour,
            "dashes": _DASHES[number % len(_DASHES)],
            "linewidth": 1.4,
            "marker": marker,
            "markersize": 9 if marker == "*" else 6,
            "markerfacecolor": "white" if turn % 2 else colour,  # hollow when a colour is used again
            "markeredgecolor": colour if turn % 2 else "white",
            "markeredgewidth": 1.1 if turn % 2 else 0.5,
        }


def dress(axes: Axes, title: str, label: str) -> None:
    """Give a panel its title, the label of its vertical axis, and the looks of all curves."""
    axes.set_title(title, fontsize=10.5, color=_INK)
    axes.set_ylabel(label, fontsize=9.5, color=_INK)
    axes.set_facecolor("white")
    axes.set_xlim(0, None)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
