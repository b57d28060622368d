# SPDX-License-Identifier: Apache-2.0
"""The report: well-formed, self-contained, and with the figures that the runs add up to."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_ros.core.evaluation.scores import Run
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.reporting.plots import spans
from geoloc_ros.core.reporting.records import frames_of
from geoloc_ros.core.reporting.report import blend_heatmap, write_report
from geoloc_ros.core.reporting.track import round_length


class Audit(HTMLParser):
    """Collects all links, and checks that elements nest."""

    VOID = frozenset({"meta", "img", "source", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


Walk = Callable[..., Run]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, walk: Walk, flat_map: MapSource) -> Path:
    folder = tmp_path_factory.mktemp("report") / "deep" / "folder"
    runs = [walk("geoloc", 2.0, gap=range(5, 9)), walk("ncc", 30.0)]
    write_report(folder, runs, flat_map, "A walk", "made up <b>data</b>")
    return folder


def test_json_holds_the_first_runs_figures_and_all_runs(report: Path) -> None:
    figures = json.loads((report / "report.json").read_text())
    assert figures["availability"] == 0.9
    assert figures["ma"]["3"] == 0.9
    assert [run["name"] for run in figures["runs"]] == ["geoloc", "ncc"]
    assert figures["runs"][1]["false_fix_rate"] == 1.0
    assert figures["seed"] == 4


def test_page_is_one_self_contained_file(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    audit = Audit()
    audit.feed(page)
    assert audit.open == []
    assert len(audit.links) >= 8
    for link in audit.links:
        assert link.startswith("data:image/"), link[:80]
        kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", link, re.DOTALL).groups()  # type: ignore[union-attr]
        decoded = base64.b64decode(data, validate=True)
        if kind == "jpeg":
            assert cv2.imdecode(np.frombuffer(decoded, np.uint8), cv2.IMREAD_COLOR) is not None
        else:
            assert b"<svg" in decoded
    assert "<script" not in page
    assert "made up &lt;b&gt;data&lt;/b&gt;" in page
    assert "Frame 3 &lt;1.5 m off&gt;" in page
    assert "90.0 %" in page


def test_searches_are_listed(report: Path) -> None:
    """Begin counts from the first frame; what does not exist is a dash in the page and null in the JSON."""
    page = (report / "report.html").read_text(encoding="utf-8")
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page)]
    assert ["1.0 s", "2.5 s", "6", "found", "2000:1", "3.2 m"] in rows
    assert ["10.0 s", "4.0 s", "9", "not found", "–", "–"] in rows
    assert page.count('alt="Candidates of a search"') == 1
    searches = json.loads((report / "report.json").read_text())["searches"]
    assert searches[0] == {
        "begin_s": 101.0, "duration_s": 2.5, "frames": 6, "accepted": True, "log_odds": 7.601, "error_m": 3.25
    }  # fmt: skip
    assert searches[1]["log_odds"] is searches[1]["error_m"] is None


def test_track_is_drawn_to_scale(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="7" [^>]*><title>geoloc', page)
    assert len(circles) == 36
    # 39 steps of 5 m northwards; the picture is 1200 px for 1.15 times that.
    (x0, y0), (x1, y1) = ((float(a), float(b)) for a, b in (circles[0], circles[-1]))
    assert y0 - y1 == pytest.approx(1200 / 1.15, abs=1.0)
    assert x0 == pytest.approx(x1, abs=0.5)
    assert x0 - 600 == pytest.approx(2.0 * 1200 / (1.15 * 195), abs=0.5)


def test_same_runs_give_the_same_files(report: Path, tmp_path: Path, walk: Walk, flat_map: MapSource) -> None:
    runs = [walk("geoloc", 2.0, gap=range(5, 9)), walk("ncc", 30.0)]
    write_report(tmp_path, runs, flat_map, "A walk", "made up <b>data</b>")
    names = {path.name for path in report.iterdir()}
    assert names == {
        "report.html", "report.json", "summary.csv", "tracks.geojson", "tracks.kml", "truth.tum",
        "geoloc.tum", "geoloc_errors.csv", "ncc.tum", "ncc_errors.csv",
    }  # fmt: skip
    for name in names:
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


def test_json_holds_all_frames(report: Path, walk: Walk) -> None:
    records = json.loads((report / "report.json").read_text())["records"]
    assert list(records) == ["geoloc", "ncc"]
    frames = frames_of(**records["geoloc"])
    assert len(frames) == 40
    assert [frame.valid for frame in frames].count(False) == 4
    before = walk("geoloc", 2.0, gap=range(5, 9)).frames[20]
    assert frames[20].lat_deg == pytest.approx(before.lat_deg, abs=1e-9)
    assert frames[20].stages_ms == before.stages_ms


def test_page_tells_all_figures(report: Path) -> None:
    """What the summary computed, where the page should show it."""
    page = (report / "report.html").read_text(encoding="utf-8")
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page)]
    # A constant error has no spread, and every step is right but those over the gap.
    assert ["geoloc: APE", "2.00", "2.00", "2.00", "0.00", "2.00", "2.00", "144", ""] in cells
    assert ["geoloc: RPE, 1 frame", *["0.00"] * 6, "0", "35"] in cells
    assert ["expected", "2.00", "0.393", "0.865", "0.989"] in cells
    assert ["network", "19.0", "22.0", "22.0"] in cells
    assert ["2.5 s", "4", "2.0 s", "the view is &lt;dark&gt;"] in cells
    assert "4 of 40 frames have no valid fix, in 1 gap." in page
    assert page.count('<source srcset="data:image/svg+xml') == 3 * 3  # three plots


def test_partial_runs_say_so(tmp_path: Path, walk: Walk) -> None:
    run = walk("geoloc", 2.0)
    run.stopped, run.frames_read, run.frames_expected = True, 43, 120
    write_report(tmp_path, [run], None, "Stopped")
    assert "geoloc is partial: 43 of 120 frames." in (tmp_path / "report.html").read_text()
    figures = json.loads((tmp_path / "report.json").read_text())
    assert (figures["partial"], figures["frames_read"], figures["frames_expected"]) == (True, 43, 120)


def test_long_runs_make_small_pages(tmp_path: Path, walk: Walk) -> None:
    """A page must open whatever the flight's length; the JSON holds every frame."""
    run = walk("geoloc", 2.0, gap=range(100, 2000, 50), frames=4000)
    write_report(tmp_path, [run], None, "Long")
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 2_000_000
    assert 1000 < page.count("<circle cx") <= 1500
    assert len(json.loads((tmp_path / "report.json").read_text())["records"]["geoloc"]["rows"]) == 4000


def test_runs_without_any_fix_or_frame_still_report(tmp_path: Path, walk: Walk) -> None:
    write_report(tmp_path, [walk("lost", 1.0, gap=range(40))], None, "Lost")
    write_report(tmp_path, [Run("empty", "tracking", "none", "cpu", [])], None, "Nothing")
    assert json.loads((tmp_path / "report.json").read_text())["median_error_m"] is None


def test_spans_join_neighbours() -> None:
    inside = np.array([True, True, False, True])
    assert spans(np.array([0.0, 1.0, 2.0, 4.0]), inside) == [(0.0, 2.0), (4.0, 1.0)]
    assert spans(np.array([]), np.array([], dtype=bool)) == []


def test_scale_bar_lengths() -> None:
    assert [round_length(value) for value in (1.0, 4.9, 60.0, 199.0, 2000.0)] == [1, 2, 50, 100, 2000]


def test_heatmap_shows_at_its_peak_only() -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    heatmap = np.zeros((32, 32), np.float32)
    heatmap[8, 24] = 1e-3  # small values, as a probability has
    blended = blend_heatmap(picture, heatmap)
    assert np.abs(blended[8, 24].astype(int) - 100).max() > 80
    np.testing.assert_array_equal(blended[20], picture[20])
