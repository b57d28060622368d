# SPDX-License-Identifier: Apache-2.0
"""The pages of reports in a headless Chromium: nothing is fetched, nothing fails, everything shows, and fits."""

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Browser

from geoloc_ros.core.evaluation.scores import Run
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.reporting.comparison import compare, read_reports, write_comparison
from geoloc_ros.core.reporting.report import write_report

PICTURES = """Promise.all([
  ...document.images,
  ...[...document.querySelectorAll("svg image")].map(each => Object.assign(new Image(), {src: each.href.baseVal})),
].map(each => each.decode().then(() => each.naturalWidth)))"""
SECTIONS = '[...document.querySelectorAll("h2")].map(each => each.textContent)'
TOO_WIDE = """[...document.querySelectorAll("main *")].filter(each =>
  each.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !each.closest(".scroll, svg"))
  .map(each => each.outerHTML.slice(0, 80))"""
PLOT = 'document.querySelector("picture img").currentSrc'


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, walk: Callable[..., Run], flat_map: MapSource) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    gap = range(5, 9)
    stopped = walk("stopped", 3.0, gap)
    stopped.stopped, stopped.frames_read, stopped.frames_expected = True, 40, 55
    write_report(folder / "one", [walk("geoloc", 2.0, gap), walk("ncc", 30.0)], flat_map, "A walk", "made up")
    write_report(folder / "with a longer name", [stopped], flat_map, "Another walk")
    told = read_reports([folder / "one", folder / "with a longer name"])
    write_comparison(folder, compare(told, {"median_error_m": 0.1}), flat_map)
    return {"report": folder / "one" / "report.html", "comparison": folder / "comparison.html"}


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("width_px", [1280, 390])
def test_page_in_a_browser(pages: dict[str, Path], browser: Browser, name: str, width_px: int) -> None:
    browser.requests.clear()
    browser.open(pages[name], width_px)
    assert browser.complaints == []
    assert {url for url in browser.requests if not url.startswith("data:")} == {pages[name].as_uri()}
    widths = browser.value(PICTURES)
    assert len(widths) >= 4
    assert min(widths) > 0
    assert browser.value("document.documentElement.scrollWidth") == width_px
    assert browser.value(TOO_WIDE) == []
    assert {"Figures", "Error over time", "Calibration of the covariance"} <= set(browser.value(SECTIONS))


def test_plots_follow_paper_and_width(pages: dict[str, Path], browser: Browser) -> None:
    shown = set()
    for width_px in (1280, 390):
        for dark in (False, True):
            browser.open(pages["report"], width_px, dark)
            shown.add(browser.value(PLOT))
            paper = browser.value("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(18, 22, 28)" if dark else "rgb(244, 246, 248)")
    assert len(shown) == 4


def test_browser_tells_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """The tests above can fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<body style="margin: 0"><main><p style="width: 3000px">wide</p><img src="missing.png"></main>'
        "<script>undefinedFunction()</script>"
    )
    browser.requests.clear()
    browser.open(page, 390)
    assert any("undefinedFunction" in complaint for complaint in browser.complaints)
    assert any(url.endswith("missing.png") for url in browser.requests)
    assert browser.value("document.documentElement.scrollWidth") > 390
    assert len(browser.value(TOO_WIDE)) == 1
    browser.complaints.clear()
