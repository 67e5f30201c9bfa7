"""A comparison as one HTML page: sortable tables, curves of ROAD, cost, and an explorer of the maps."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from tame.functional.masking import drawable, upsample
from tame.reporting import report_tables
from tame.reporting.report_tables import tag
from tame.reporting.results import Table
from tame.utils.checks import InputError
from tame.utils.io import write_text
from tame.utils.versions import VERSION
from tame.visualize import PANELS, RoadCurves
from tame.visualize.curves import styles

_IMAGE_SIDE, _MAP_SIDE = 448, 256  # at most so many pixels
_SMOOTH_SIDE = 56  # smaller maps are upsampled to at least so many pixels: browsers interpolate in coarse steps
_LOOKS = "jet", "viridis", "turbo", "gray"  # matplotlib's; the first is that of `tame.visualize.overlay`
_LEVELS = 65  # of a colour map, linear in between


class View(NamedTuple):
    """One image in the explorer of a report.

    Attributes:
        file: Its name.
        image: As the classifier sees it, resized and cropped; any mode.
        classes: Index, name and confidence in [0, 1] of each class that can be picked.
        maps: (h, w) by method and index of the class, unscaled; a method may lack a class.
    """

    file: str
    image: Image.Image
    classes: Sequence[tuple[int, str, float]]
    maps: Mapping[tuple[str, int], np.ndarray]


def write_report(
    path: str | Path,
    table: Table,
    curves: RoadCurves | None = None,
    views: Sequence[View] = (),
    title: str = "Comparison of explanations",
) -> Path:
    """Write a comparison as one HTML file that needs no network and no server.

    Maps are min-max scaled (see `tame.functional.masking.drawable`) and stored as small grey pictures. The browser
    upsamples their values and then colours them, as `tame.visualize.overlay` does. The same numbers make the same file.

    Args:
        path: Of the file, which is written atomically; missing folders are made.
        table: The measures, the verdicts and the cost.
        curves: Curves of ROAD; None leaves this section out.
        views: Images of the explorer; none leave this section out.
        title: Title of the page.

    Returns:
        ``path``.

    Raises:
        InputError: For a view without classes, or with a map that is not (h, w) or is of a class that the view lacks.
    """
    for view in views:
        _check(view)
    style, script = _asset("report.css"), _asset("report.js")
    methods = list(dict.fromkeys(method for view in views for method, _ in view.maps))
    data = {
        "curves": None if curves is None else _curves(curves),
        "methods": methods,
        "views": [_view(view) for view in views],
    }
    absent = {name for name, present in (("curves", curves), ("explorer", views)) if not present}
    parts = {"tables": "Measures", "curves": "ROAD curves", "cost": "Cost", "explorer": "Explorer"}
    page = Template(_without(_asset("report.html"), absent)).substitute(
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
            f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
        ),
        title=escape(title),
        caption=escape(table.caption),
        navigation="".join(tag("a", text, href=f"#{name}") for name, text in parts.items() if name not in absent),
        key=report_tables.key(table),
        switch=report_tables.switch(table),
        tables="\n".join(report_tables.measures(table)),
        notes="".join(tag("p", escape(note), class_="note") for note in table.notes),
        curves_title=escape(f"{curves.title.removeprefix('ROAD: ')}.") if curves and curves.title else "",
        cost=report_tables.cost(table),
        looks="".join(tag("option", name, value=name) for name in _LOOKS),
        filters="".join(map(_filter, _LOOKS)) if views else "",
        version=escape(VERSION),
        style=style,
        script=script,
        data=_json(data),
    )
    path = Path(path)
    write_text(path, page)
    return path


def _check(view: View) -> None:
    known = [index for index, _, _ in view.classes]
    if not known:
        raise InputError(f"expected at least one class of {view.file}, got none")
    for (method, index), values in view.maps.items():
        if index not in known:
            raise InputError(f"expected maps of the classes {known} of {view.file}, got one of {index} by {method}")
        if np.ndim(values) != 2 or not np.size(values):
            raise InputError(f"expected maps (h, w) of {view.file}, got {np.shape(values)} by {method}")


def _asset(name: str) -> str:
    return (files("tame") / "assets" / "report" / name).read_text(encoding="utf-8")


def _without(page: str, names: set[str]) -> str:
    """Return the template without these sections."""
    for name in names:
        before, _, rest = page.partition(f'<section id="{name}"')
        page = before + rest.partition("</section>\n")[2].lstrip("\n")
    return page


def _digest(text: str) -> str:
    """Return what a content security policy calls an inline script, so that no other one runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(content: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _curves(curves: RoadCurves) -> dict[str, Any]:
    """Return the curves as plain JSON values, with the looks that `tame.visualize.road_curves` gives the lines."""
    looks = (
        {"color": style["color"], "dashes": style["dashes"], "marker": style["marker"], "hollow": hollow}
        for style in styles()
        for hollow in [style["markerfacecolor"] != style["color"]]
    )
    return {
        "removes": [float(remove) for remove in curves.removes],
        "start": dict(curves.start),
        "panels": [
            {
                "name": name,
                "title": title,
                "label": label,
                "higher": name.startswith("lerf"),
                "reading": name.split("_")[1],
            }
            for name, (title, label) in PANELS.items()
        ],
        "methods": {
            method: {
                "values": _finite(curves.values[method]),
                "errors": _finite(curves.errors[method]) if method in curves.errors else None,
                "style": style,
            }
            for method, style in zip(curves.values, looks, strict=False)
        },
    }


def _finite(lines: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    return {panel: [float(value) if math.isfinite(value) else None for value in lines[panel]] for panel in PANELS}


def _view(view: View) -> dict[str, Any]:
    image = view.image.convert("RGB")
    image.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS)
    maps: dict[str, dict[str, dict[str, str]]] = {}
    for (method, index), values in view.maps.items():
        maps.setdefault(method, {})[str(index)] = _map(np.asarray(values, np.float32))
    return {
        "file": view.file,
        "image": _url(image, "JPEG", quality=85),
        "classes": [
            {"index": int(index), "name": name, "confidence": float(confidence)}
            for index, name, confidence in view.classes
        ],
        "maps": maps,
    }


def _map(values: np.ndarray) -> dict[str, str]:
    """Return a map as a grey picture, and a note where it is constant or invalid."""
    scaled, (found,) = drawable(torch.from_numpy(values)[None])
    note = found or ("constant map" if values.min() == values.max() else "")
    factor = -(-_SMOOTH_SIDE // max(values.shape))
    scaled = upsample(scaled, (factor * values.shape[0], factor * values.shape[1]))[0]
    picture = Image.fromarray(scaled.mul(255).round().byte().numpy())
    picture.thumbnail((_MAP_SIDE, _MAP_SIDE), Image.Resampling.BILINEAR)
    return {"src": _url(picture, "PNG", optimize=True), "note": note}


def _url(picture: Image.Image, kind: str, **options: Any) -> str:
    """Return a picture as a data URL."""
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _filter(name: str) -> str:
    """Return a colour map of matplotlib as a filter that turns grey into its colours."""
    from matplotlib import colormaps

    colours = colormaps[name](np.linspace(0, 1, _LEVELS))[:, :3]  # (levels, 3)
    channels = (
        f'<feFunc{channel} type="table" tableValues="{" ".join(f"{value:.3g}" for value in column)}"/>'
        for channel, column in zip("RGB", colours.T, strict=True)
    )
    start = f'<filter id="look-{name}" x="0" y="0" width="1" height="1" color-interpolation-filters="sRGB">'
    return f"{start}<feComponentTransfer>{''.join(channels)}</feComponentTransfer></filter>"
