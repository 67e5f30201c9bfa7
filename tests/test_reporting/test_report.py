"""The report as a file: everything in it, nothing outside of it, and no text that becomes markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from finished_runs import AD_IC, ALL, HALF, make_run, three
from tame.evaluation.records import open_run
from tame.functional.masking import min_max, upsample
from tame.reporting.curves import curves_of
from tame.reporting.report import View, write_report
from tame.reporting.results import Table
from tame.reporting.table import build_table
from tame.utils.checks import InputError
from tame.visualize import PANELS, RoadCurves

HOSTILE = "</script><script>alert(1)</script><!--<b>'\"&amp;</td>${x}$style\u2028"


class Page(HTMLParser):
    """What a browser finds in a page: its elements, and the text of each in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("meta", "link", "input"):
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def find(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (found, "".join(text))
            for name, found, text in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.find("script", type="application/json")[0][1])

    @property
    def sections(self) -> list[str | None]:
        return [found["id"] for found, _ in self.find("section")]


def views(name: str = "cat", file: str = "a.jpg", methods: tuple[str, ...] = ("ttame", "gradcam")) -> list[View]:
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (600, 600, 3), np.uint8))
    maps = {(method, index): generator.normal(3, 2, (7, 5)) for method in methods for index in (4, 2)}
    return [View(file, image, [(4, name, 0.75), (2, "dog", 0.125)], maps), View("b.jpg", image, [(1, "cup", 1.0)], {})]


def table_of(tmp_path: Path, metrics: dict[str, Any] = ALL, reference: str | None = "gradcam") -> Table:
    return build_table(three(tmp_path, metrics), reference)


def all_of(tmp_path: Path) -> tuple[Table, RoadCurves]:
    runs = [open_run(folder) for folder in three(tmp_path, ALL)]
    return build_table(runs, "gradcam"), curves_of(runs)


def picture(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    found = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{str(found.format).lower()};base64"
    return found


def test_one_file_with_everything(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", *all_of(tmp_path), views())
    assert path == tmp_path / "new" / "report.html" and [each.name for each in path.parent.iterdir()] == [path.name]
    page = Page(path)
    assert not re.search(r"https?:|@import|url\((?![\"']?#|`)|//[a-z]+\.", page.text)
    for _, attributes, _ in page.elements:
        assert not {"src", "srcset", "action", "style"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert page.sections == ["tables", "curves", "cost", "explorer"]
    assert [found["href"] for found, _ in page.find("a")][1:] == [f"#{name}" for name in page.sections]
    assert page.find("html")[0][0]["lang"] == "en"
    assert "width=device-width" in str(page.find("meta", name="viewport")[0][0]["content"])


def test_only_the_pages_own_script_runs(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", *all_of(tmp_path), views()))
    policy = str(page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"])
    (_, script), (_, style) = page.find("script")[1], page.find("style")[0]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    runs = [open_run(make_run(tmp_path / name, HOSTILE + name, HALF, ALL, preset=HOSTILE)) for name in "ab"]
    table, curves = build_table(runs, HOSTILE + "a"), curves_of(runs)
    given = views(HOSTILE, HOSTILE, methods=(HOSTILE,))
    page = Page(write_report(tmp_path / "report.html", table, curves, given, title=HOSTILE))
    plain = Page(write_report(tmp_path / "plain.html", *all_of(tmp_path), views()))
    assert len(page.find("script")) == 2 and not page.find("b") and not page.open
    assert {name for name, *_ in page.elements} == {name for name, *_ in plain.elements}
    assert page.find("script")[1] == plain.find("script")[1] and page.find("style") == plain.find("style")
    assert page.find("title") == [({}, HOSTILE)] and page.find("h1") == [({}, HOSTILE)]
    assert [found["data-value"] for found, _ in page.find("th", scope="row")][:2] == [HOSTILE + "a", HOSTILE + "b"]
    assert not re.search("[<>&\u2028]", page.find("script")[0][1])
    view = page.data["views"][0]
    assert (view["file"], view["classes"][0]["name"], page.data["methods"]) == (HOSTILE, HOSTILE, [HOSTILE])
    assert list(page.data["curves"]["methods"]) == [HOSTILE + "a", HOSTILE + "b"]


def test_tables_show_what_markdown_shows(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    page = Page(write_report(tmp_path / "report.html", table))
    names = [text for _, text in page.find("caption")]
    assert names[0] == "Min-max scaled maps AD: lower is better, IC: higher is better"
    assert [name.split(" ")[0] for name in names] == ["Min-max", "Rank-scaled", "ROAD", "Insertion", "Means"]
    values = [
        float(str(found["data-value"])) for found, _ in page.find("td") if str(found.get("title")).startswith("AD 1")
    ]
    assert values == pytest.approx([25, 25, 5, 5, 55, 55] * 2)
    assert re.findall(r"<td [^>]*><strong>5\.00</strong>", page.text) and "<u>25.00</u>" in page.text
    assert table.caption in page.find("p")[0][1]
    assert "Random: 3 constant and 0 invalid maps of 40, counted as all ones." in page.text


def test_verdicts_stand_beside_the_values(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", table_of(tmp_path)))
    first = next(found for found in page.find("td") if str(found[0].get("title")).endswith(": win"))
    assert re.fullmatch(r"5\.00\+better than Grad-CAM−20\.00 \[−\d+\.\d\d, −\d+\.\d\d\]", first[1])
    assert re.fullmatch(
        r"AD 100 % \(minmax\), lower is better: 5\.00 ± 0\.\d\d \(standard error\); "
        r"−20\.00 \[.+\] against Grad-CAM: win",
        str(first[0]["title"]),
    )
    assert {str(found.get("class")) for found, _ in page.find("sup")} == {"None", "win", "tie", "loss"}
    assert page.find("input", id="intervals")
    alone = Page(write_report(tmp_path / "report.html", table_of(tmp_path, reference=None)))
    assert not alone.find("sup") and not alone.find("input", id="intervals") and "bootstrap" not in alone.text


def test_headings_say_how_they_sort(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", table_of(tmp_path, AD_IC)))
    heads = page.find("th", scope="col")
    assert [found.get("data-better") for found, _ in heads[:6]] == [None, "lower", "higher", "lower", "higher", "lower"]
    assert [text for _, text in heads[:2]] == ["Method", "AD 100\N{NO-BREAK SPACE}%↓, lower is better"]
    assert len(page.find("button", type="button")) == len(heads)


def test_cost(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", table_of(tmp_path, AD_IC)))
    cost = page.text.partition('<section id="cost"')[2]
    cells = re.findall(r'<td data-value="([^"]*)">([^<]*)</td>', cost)
    passes = [("1.0", "1"), ("1.0", "1"), ("1.256", "1.26")]
    assert cells[:6] == [*passes, ("0.25", "0.2500"), ("0.0", "0.0000"), ("0.0", "0.0000")]
    assert re.findall(r'<td class="text" data-value="([^"]*)"', cost) == ["tame", "tame, masking=cnn", "tame"]


def test_without_curves_and_views_there_are_no_such_sections(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", table_of(tmp_path, AD_IC)))
    assert page.sections == ["tables", "cost"]
    assert page.data == {"curves": None, "methods": [], "views": []}
    assert not page.find("filter") and not page.find("select")
    assert Page(write_report(tmp_path / "report.html", *all_of(tmp_path))).sections == ["tables", "curves", "cost"]
    explored = write_report(tmp_path / "report.html", table_of(tmp_path, AD_IC), None, views())
    assert Page(explored).sections == ["tables", "cost", "explorer"]


def test_controls_that_mean_nothing_sort_last(tmp_path: Path) -> None:
    runs = [open_run(make_run(tmp_path / name, name, HALF, ALL, work=1.0)) for name in ("ttame", "all_ones")]
    page = Page(write_report(tmp_path / "report.html", build_table(runs)))
    empty = [text for found, text in page.find("td") if found["data-value"] == ""]
    assert empty == ["–none"] * 10
    assert len(page.find("tr", **{"class": "control"})) == 5


def test_curves_are_complete(tmp_path: Path) -> None:
    table, curves = all_of(tmp_path)
    errors = {"T-TAME": dict.fromkeys(PANELS, [float("nan"), 0.5])}
    found = Page(write_report(tmp_path / "report.html", table, curves._replace(errors=errors))).data["curves"]
    assert found["removes"] == [0.1, 0.5] and found["start"] == curves.start
    assert [(panel["name"], panel["reading"], panel["higher"]) for panel in found["panels"]] == [
        ("morf_confidence", "confidence", False),
        ("morf_kept", "kept", False),
        ("lerf_confidence", "confidence", True),
        ("lerf_kept", "kept", True),
    ]
    assert {method: each["values"] for method, each in found["methods"].items()} == curves.values
    assert found["methods"]["T-TAME"]["errors"] == dict.fromkeys(PANELS, [None, 0.5])
    assert found["methods"]["Grad-CAM"]["errors"] is None
    assert len({each["style"]["color"] for each in found["methods"].values()}) == 3


def test_explorer_is_complete(tmp_path: Path) -> None:
    first, second = given = views()
    data = Page(write_report(tmp_path / "report.html", table_of(tmp_path), None, given)).data
    assert data["methods"] == ["ttame", "gradcam"] and [view["file"] for view in data["views"]] == ["a.jpg", "b.jpg"]
    assert data["views"][0]["classes"] == [
        {"index": 4, "name": "cat", "confidence": 0.75},
        {"index": 2, "name": "dog", "confidence": 0.125},
    ]
    image = picture(data["views"][0]["image"])
    assert image.format == "JPEG" and image.size == (448, 448)
    for (method, index), values in first.maps.items():
        shown = picture(data["views"][0]["maps"][method][str(index)]["src"])
        expected = upsample(min_max(torch.tensor(values)[None]), (56, 40))[0].numpy()
        assert shown.mode == "L" and np.abs(np.asarray(shown) / 255 - expected).max() < 0.003
    assert data["views"][1]["maps"] == {} and second.maps == {}


@pytest.mark.parametrize(
    ("values", "note", "grey"),
    [
        (np.full((3, 3), -2.0), "no positive evidence", 0),
        (np.array([[0.0, np.nan]]), "invalid map", 0),
        (np.full((3, 3), 2.0), "constant map", 255),
    ],
)
def test_maps_that_show_nothing_are_noted(tmp_path: Path, values: np.ndarray, note: str, grey: int) -> None:
    given = [views()[0]._replace(maps={("ttame", 4): values})]
    found = Page(write_report(tmp_path / "report.html", table_of(tmp_path), None, given)).data["views"][0]
    assert found["maps"]["ttame"]["4"]["note"] == note
    assert (np.asarray(picture(found["maps"]["ttame"]["4"]["src"])) == grey).all()


@pytest.mark.parametrize(("shape", "size"), [((600, 300), (128, 256)), ((60, 60), (60, 60)), ((1, 1), (56, 56))])
def test_sizes_of_maps(tmp_path: Path, shape: tuple[int, int], size: tuple[int, int]) -> None:
    given = [views()[0]._replace(maps={("ttame", 4): np.random.default_rng(0).random(shape)})]
    found = Page(write_report(tmp_path / "report.html", table_of(tmp_path), None, given)).data["views"][0]
    assert picture(found["maps"]["ttame"]["4"]["src"]).size == size


def test_filters_are_the_colour_maps(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report.html", table_of(tmp_path), None, views()))
    looks = [str(found["value"]) for found, _ in page.find("option")]
    assert [found["id"] for found, _ in page.find("filter")] == [f"look-{name}" for name in looks[:-1]]
    levels = np.linspace(0, 1, 256)
    for number, name in enumerate(looks[:-1]):
        for channel, letter in enumerate("rgb"):
            given = str(page.find(f"fefunc{letter}")[number][0]["tablevalues"])
            points = np.array([float(value) for value in given.split()])
            found = np.interp(levels, np.linspace(0, 1, len(points)), points)
            assert np.abs(found - colormaps[name](levels)[:, channel]).max() < 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda view: view._replace(classes=[]), r"expected at least one class of a\.jpg, got none"),
        (
            lambda view: view._replace(maps={("rise", 9): np.ones((2, 2))}),
            r"expected maps of the classes \[4, 2\] of a\.jpg, got one of 9 by rise",
        ),
        (
            lambda view: view._replace(maps={("rise", 4): np.ones((1, 2, 2))}),
            r"expected maps \(h, w\) of a\.jpg, got \(1, 2, 2\) by rise",
        ),
    ],
)
def test_views_that_cannot_be_shown(tmp_path: Path, change: Callable[[View], View], message: str) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(InputError, match=message):
        write_report(path, table_of(tmp_path), None, [change(views()[0])])
    assert path.read_text() == "old"


def test_the_same_numbers_make_the_same_file(tmp_path: Path) -> None:
    table, curves = all_of(tmp_path)
    first, second = (write_report(tmp_path / name, table, curves, views()) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()
