"""The report in a browser: sorting, curves, explorer, keyboard, phone; headless Chromium, where there is one."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finished_runs import ALL, GOOD, make_run, three
from tame.evaluation.records import open_run
from tame.functional.masking import min_max
from tame.reporting.curves import curves_of
from tame.reporting.report import View, write_report
from tame.reporting.table import build_table
from tame.visualize import overlay

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]

Open = Callable[..., Any]
ATTACK = "<img src=x onerror='window.attacked=1'></script><script>window.attacked=1</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=CHROMIUM)
        yield program
        program.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [*three(folder, ALL), make_run(folder / "d", "all_ones", [0.5] * 40, ALL)]
    runs.append(make_run(folder / "e", ATTACK, GOOD, ALL))
    read = [open_run(run) for run in runs]
    return write_report(folder / "report.html", build_table(read, "gradcam"), curves_of(read), views())


def views() -> list[View]:
    rows, columns = np.mgrid[:96, :96] / 95
    images = [np.stack([rows, columns, 0 * rows + blue], 2) for blue in (0.2, 0.9)]
    generator = np.random.default_rng(0)
    shown = []
    for number, image in enumerate(images):
        classes = [(4, "tabby", 0.75), (7 + number, ATTACK, 0.125)]
        maps = {(name, index): generator.random((7, 7)) for name in ("ttame", "gradcam") for index, *_ in classes}
        maps |= {("flat", 4): np.zeros((7, 7))}
        shown.append(View(f"{number}.jpg", Image.fromarray((255 * image).astype(np.uint8)), classes, maps))
    return shown


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Open]:
    """Open the report; nothing may be logged, nothing asked of the network, and no text may have run."""
    contexts, problems = [], []

    def open_page(width: int = 1200, height: int = 900, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if allowed(request.url) else None)
        page.goto(report.as_uri())
        return page

    def allowed(url: str) -> bool:
        return url != report.as_uri() and not url.startswith("data:")

    yield open_page
    for context in contexts:
        assert all(page.evaluate("window.attacked") is None for page in context.pages)
        context.close()
    assert not problems


def order(page: Any, table: int = 0) -> list[str]:
    rows = page.locator("table.sortable").nth(table).locator("tbody tr")
    return [row.get_attribute("data-value")[:8] for row in rows.locator("th").all()]


def maps(page: Any) -> list[str]:
    return [image.get_attribute("data-method") for image in page.locator("#explorer .map").all()]


def test_sorting_by_mouse_and_keyboard(opened: Open) -> None:
    page = opened()
    given = order(page)
    assert given == ["Grad-CAM", "T-TAME", "Random", "All ones", ATTACK[:8]]
    head = page.locator("table.sortable").first.locator("th[scope=col]").nth(1)  # AD: lower is better
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert order(page) == ["All ones", "T-TAME", ATTACK[:8], "Grad-CAM", "Random"]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert order(page) == ["Random", "Grad-CAM", "T-TAME", ATTACK[:8], "All ones"]
    page.keyboard.press("Tab")  # to IC: higher is better
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None
    assert page.locator("th[aria-sort]").count() == 1
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("IC 100")
    assert order(page) == ["Grad-CAM", "T-TAME", ATTACK[:8], "Random", "All ones"]  # equal ones stay
    page.locator("table.sortable").first.locator("th[scope=col]").first.locator("button").click()
    assert order(page)[1:] == ["All ones", "Grad-CAM", "Random", "T-TAME"]
    assert order(page, 1) == given  # the other tables stay


def test_what_has_no_value_is_last_both_ways(opened: Open) -> None:
    page = opened()
    button = page.locator("table.sortable").nth(1).locator("th[scope=col] button").nth(1)
    for first in ("T-TAME", "Random"):
        button.click()
        assert order(page, 1)[0] == first and order(page, 1)[-1] == "All ones"


def test_intervals_are_shown_on_demand(opened: Open) -> None:
    page = opened()
    interval = page.locator("small.interval").first
    assert not interval.is_visible()
    page.get_by_label("show differences to Grad-CAM").check()
    assert interval.is_visible()


def test_curves(opened: Open) -> None:
    page = opened()
    panel = page.locator(".panel").first
    plot, readout = panel.get_by_role("slider"), panel.locator(".readout")
    assert plot.locator("g").count() == 4 and not readout.is_visible()
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] - 12, "y": box["height"] - 40})
    assert readout.locator("caption").inner_text() == "50 % removed"
    assert readout.locator("tr").first.inner_text().split() == ["Random", "22.5"]  # MoRF: lower is better
    assert readout.locator("tr.near").inner_text().split() == ["Random", "22.5"]
    page.mouse.move(0, 0)
    assert not readout.is_visible()
    page.locator("#curves .legend button").last.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert readout.is_visible()
    page.keyboard.press("ArrowLeft")
    assert plot.get_attribute("aria-valuenow") == "10" and "10 % removed: Random 22.5" in str(
        plot.get_attribute("aria-valuetext")
    )
    page.keyboard.press("Escape")
    assert not readout.is_visible()
    legend = page.get_by_role("group", name="Methods drawn").get_by_role("button", name="Random")
    legend.click()
    assert legend.get_attribute("aria-pressed") == "false"
    assert [page.locator(".panel").nth(number).locator("g").count() for number in range(4)] == [3] * 4
    assert "Random" not in str(plot.get_attribute("aria-valuetext"))
    legend.click()
    assert plot.locator("g").count() == 4


def test_a_tap_shows_values_inside_the_page(opened: Open) -> None:
    page = opened(280, 740, has_touch=True)
    plot, readout = page.locator(".panel").first.get_by_role("slider"), page.locator(".panel .readout").first
    for x in (60, 180, 250):
        plot.tap(position={"x": x, "y": 60})
        box = readout.bounding_box()
        assert readout.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= 280
    page.locator("h1").tap()
    assert not readout.is_visible()


def test_explorer(opened: Open) -> None:
    page = opened()
    explorer = page.locator("#explorer")
    assert maps(page) == ["ttame", "gradcam", "flat"]
    assert explorer.locator("#shown").inner_text() == "0.jpg, image 1 of 2; tabby (4) with confidence 75.0 %"
    explorer.get_by_label("gradcam").uncheck()
    assert maps(page) == ["ttame", "flat"]
    explorer.get_by_role("button", name="none").click()
    assert maps(page) == [] and explorer.get_by_alt_text("image 0.jpg").is_visible()
    explorer.get_by_role("button", name="all").click()
    shown = explorer.locator(".map").first
    first = shown.get_attribute("src")
    assert shown.get_attribute("alt") == "ttame: explanation of tabby in 0.jpg"
    explorer.get_by_label("Class").select_option("7")
    second = shown.get_attribute("src")
    assert second != first and maps(page) == ["ttame", "gradcam"]
    assert shown.get_attribute("alt") == f"ttame: explanation of {ATTACK} in 0.jpg"
    assert explorer.get_by_text("no map of this class").is_visible()
    explorer.get_by_role("radio", name="0.jpg").focus()
    page.keyboard.press("ArrowRight")
    assert explorer.get_by_role("radio", name="1.jpg").is_checked()
    assert shown.get_attribute("src") not in (first, second)
    assert shown.get_attribute("alt") == "ttame: explanation of tabby in 1.jpg"  # it has no class 7
    explorer.locator(".thumbnails label").first.click()
    assert shown.get_attribute("src") == first


def test_one_slider_moves_all_opacities(opened: Open) -> None:
    page = opened()
    explorer, slider = page.locator("#explorer"), page.get_by_label("Opacity")
    opacities = "() => [...document.querySelectorAll('.map')].map((map) => getComputedStyle(map).opacity)"
    assert page.evaluate(opacities) == ["0.5"] * 3
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(opacities) == ["0.55"] * 3 and explorer.locator("output").inner_text() == "55 %"
    slider.fill("0")
    explorer.get_by_label("gradcam").uncheck()
    assert page.evaluate(opacities) == ["0"] * 2


def test_overlays_are_those_of_visualize(opened: Open) -> None:
    page = opened()
    view = views()[0]
    shown = {"ttame": min_max(torch.tensor(view.maps["ttame", 4])[None])[0], "flat": torch.zeros(7, 7)}
    for look, alpha in (("jet", 1.0), ("viridis", 0.5)):
        page.get_by_label("Display").select_option(look)
        page.get_by_label("Opacity").fill(str(int(100 * alpha)))
        for method, values in shown.items():
            box = page.locator("figure", has=page.locator(f".map[data-method={method}]")).locator(".stack")
            found = Image.open(io.BytesIO(box.screenshot())).convert("RGB")
            expected = overlay(view.image.resize(found.size), values, None, alpha, look)
            inner = (slice(8, -8), slice(8, -8))  # without the rounded corners
            difference = np.abs(np.asarray(found, float) - np.asarray(expected, float))[inner]
            assert difference.mean() < 4 and np.quantile(difference, 0.98) < 25


def test_masked_image(opened: Open) -> None:
    """At full opacity it is mask * image, what a CNN sees in AD and IC."""
    page = opened()
    page.get_by_label("Display").select_option("masked")
    assert page.get_by_label("Opacity").input_value() == "100"
    stack = page.locator("figure", has=page.locator(".map[data-method=ttame]")).locator(".stack")
    found = Image.open(io.BytesIO(stack.screenshot())).convert("RGB")
    view = views()[0]
    mask = min_max(torch.tensor(view.maps["ttame", 4])[None])[0].numpy().astype(np.float32)
    mask = np.asarray(Image.fromarray(mask).resize(found.size, Image.Resampling.BILINEAR))[:, :, None]
    expected = mask * np.asarray(view.image.resize(found.size), float)
    assert np.abs(np.asarray(found, float) - expected)[8:-8, 8:-8].mean() < 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
def test_nothing_hangs_over(opened: Open, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    page = opened(width, height, color_scheme=scheme)
    page.get_by_label("show differences").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator(".scroll").evaluate_all("boxes => boxes.map((box) => box.scrollWidth > box.clientWidth)")
    assert any(wide) == (width == 360)  # tables scroll by themselves
    picture = page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    corner = Image.open(io.BytesIO(picture)).convert("L").getpixel((1, 1))
    assert corner > 240 if scheme == "light" else corner < 40


def test_everything_has_a_name(opened: Open) -> None:
    page = opened()
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("#explorer .thumbnails img[alt='']").count() == 0
    unnamed = "fields => fields.filter((field) => !field.labels.length || !field.labels[0].textContent.trim()"
    unnamed += " && !field.labels[0].querySelector('img').alt).length"
    assert page.locator("input, select").evaluate_all(unnamed) == 0
    assert page.locator("button").evaluate_all("all => all.filter((each) => !each.textContent.trim()).length") == 0
    page.keyboard.press("Tab")
    assert page.locator(".skip").bounding_box()["x"] >= 0
