# SPDX-License-Identifier: Apache-2.0
"""TUM, GeoJSON and KML of runs: the places, their order, and where lines break."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from geoloc_ros.core.evaluation.scores import FrameScore, Run, score_fix
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.reporting.exports import write_geojson, write_kml, write_tum

KML = {"kml": "http://www.opengis.net/kml/2.2"}


def frame(index: int, truth: tuple[float, float], fix: tuple[float, float] | None, **known: float) -> FrameScore:
    return score_fix(
        index=index,
        stamp_s=100.0 + index,
        truth_lat_lon_deg=truth,
        lat_lon_deg=fix,
        covariance_enu_m2=np.diag([4.0, 9.0]),
        state="TRACKING",
        height_m=known.get("height_m", 80.0),
        peak=known.get("peak", 0.75),
    )


@pytest.fixture
def run() -> Run:
    """Five frames eastwards along the 47th parallel, the middle one without a fix; fixes a little north."""
    places = [(47.0, 8.0 + 0.001 * index) for index in range(5)]
    return Run(
        "geoloc",
        "tracking",
        "w",
        "cpu",
        [frame(index, place, None if index == 2 else (47.00001, place[1])) for index, place in enumerate(places)],
    )


def test_tum_is_metres_from_the_first_truth(run: Run, tmp_path: Path) -> None:
    write_tum(tmp_path / "fixes.tum", run.frames)
    rows = np.loadtxt(tmp_path / "fixes.tum")
    assert rows[:, 0].tolist() == [100.0, 101.0, 103.0, 104.0]
    assert rows[:, 3:].tolist() == [[80.0, 0.0, 0.0, 0.0, 1.0]] * 4
    # On WGS84 a degree of longitude at 47 degrees is 76,056 m, one of latitude 111,173 m.
    np.testing.assert_allclose(rows[:, 1], [0.0, 76.06, 228.17, 304.22], atol=0.01)
    np.testing.assert_allclose(rows[:, 2], 1.11, atol=0.01)
    write_tum(tmp_path / "truth.tum", run.frames, truth=True)
    assert np.loadtxt(tmp_path / "truth.tum").shape == (5, 8)


def test_geojson_holds_lines_and_fixes(run: Run, tmp_path: Path) -> None:
    write_geojson(tmp_path / "tracks.geojson", [run])
    collection = json.loads((tmp_path / "tracks.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    truth, fixes, *points = collection["features"]
    assert truth["properties"] == {"track": "truth"}
    assert truth["geometry"]["coordinates"] == [[[8.0 + 0.001 * index, 47.0] for index in range(5)]]
    assert fixes["properties"] == {"track": "geoloc"}
    # Broken where there was no fix; longitude first.
    assert fixes["geometry"] == {
        "type": "MultiLineString",
        "coordinates": [[[8.0, 47.00001], [8.001, 47.00001]], [[8.003, 47.00001], [8.004, 47.00001]]],
    }
    assert [point["geometry"]["type"] for point in points] == ["Point"] * 4
    assert points[2]["geometry"]["coordinates"] == [8.003, 47.00001]
    assert points[2]["properties"] == {
        "track": "geoloc", "stamp_s": 103.0, "error_m": 1.113, "sigma_m": 3.0, "confidence": 0.75, "state": "TRACKING"
    }  # fmt: skip


def test_kml_holds_lines_at_their_height(run: Run, tmp_path: Path) -> None:
    write_kml(tmp_path / "tracks.kml", [run], "Flight <A & B>")
    root = ElementTree.parse(tmp_path / "tracks.kml").getroot()
    assert root.findtext("kml:Document/kml:name", namespaces=KML) == "Flight <A & B>"
    marks = root.findall("kml:Document/kml:Placemark", KML)
    assert [mark.findtext("kml:name", namespaces=KML) for mark in marks] == ["truth", "geoloc"]
    styles = {f"#{style.get('id')}" for style in root.findall("kml:Document/kml:Style", KML)}
    assert {mark.findtext("kml:styleUrl", namespaces=KML) for mark in marks} == styles
    lines = marks[1].findall("kml:MultiGeometry/kml:LineString", KML)
    texts = [line.findtext("kml:coordinates", namespaces=KML) for line in lines]
    assert texts[1] == "8.003000000,47.000010000,80.000 8.004000000,47.000010000,80.000"
    modes = {line.findtext("kml:altitudeMode", namespaces=KML) for line in lines}
    assert modes == {"relativeToGround"}


def test_unknown_heights_lie_on_the_ground(tmp_path: Path) -> None:
    frames = [frame(index, (47.0, 8.0 + index), None, height_m=np.nan) for index in range(2)]
    write_kml(tmp_path / "tracks.kml", [Run("lost", "tracking", "", "", frames)], "Lost")
    text = (tmp_path / "tracks.kml").read_text()
    assert "clampToGround" in text
    assert "nan" not in text


def test_lines_break_at_the_antimeridian(tmp_path: Path) -> None:
    """RFC 7946, section 3.1.9: no line may go around the world the other way."""
    enu = LocalEnu(-17.0, 179.999)
    places = [enu.to_geodetic(50.0 * index, 0.0) for index in range(6)]
    run = Run("geoloc", "tracking", "", "", [frame(index, place, place) for index, place in enumerate(places)])
    write_geojson(tmp_path / "tracks.geojson", [run])
    for feature in json.loads((tmp_path / "tracks.geojson").read_text())["features"][:2]:
        east, west = feature["geometry"]["coordinates"]
        assert len(east) + len(west) == 6
        assert all(longitude > 179.9 for longitude, _ in east)
        assert all(longitude < -179.9 for longitude, _ in west)
