# SPDX-License-Identifier: Apache-2.0
"""Located photos on the sheet: laid where they belong, with what is unknown left empty."""

import base64
import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation, rotation_from_vector
from geoloc_ros.core.localization.photo_locator import PhotoFix, heading_of
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.reporting.photo_sheet import COLUMNS, PhotoRow, draw_photo, write_rows
from geoloc_ros.core.simulation.simulator import CameraSimulator

LOST = PhotoRow("lost <b>.jpg", PhotoFix("ambiguous: 2 <3:1"))


def fix_at(lat_deg: float, lon_deg: float, frame: Frame | None = None) -> PhotoFix:
    return PhotoFix("", lat_deg, lon_deg, 123.456, 80.04, np.diag([4.0, 2.25]), frame)


def pixels(uri: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.float32)


def test_a_photo_lies_on_the_ground_that_it_shows(tmp_path: Path, write_texture: Callable[[Path, int], Path]) -> None:
    path = write_texture(tmp_path / "map.tif", 0)
    camera = CameraModel(320, 240, np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]]))
    rotation = nadir_rotation(40.0) @ rotation_from_vector(np.array([0.25, 0.1, 0.0]))
    with RasterMap(path) as raster:
        south, west, north, east = raster.bounds_deg
        place = (south + north) / 2, (west + east) / 2
        image = CameraSimulator(path, camera).render(*place, 80.0, rotation)
        frame = Frame(image, 0.0, rotation, 80.0, camera)
        there = draw_photo(fix_at(*place, frame), raster)
        off = draw_photo(fix_at(place[0] + 5e-5, place[1], frame), raster)
    assert len(there) == len(off) == 3

    def moved_levels(pictures: tuple[str, ...]) -> float:
        plain, laid = pixels(pictures[1]), pixels(pictures[2])
        return float(np.median(np.abs(laid - plain)[200:440, 200:440]))

    assert moved_levels(there) < 0.4 * moved_levels(off)  # 5.6 m off
    plain, laid = pixels(there[1]), pixels(there[2])
    assert np.abs(laid - plain)[:8, :8].max() < 30  # beyond the outline there is the map alone
    yellow = (laid[..., 0] < 60) & (laid[..., 1] > 180) & (laid[..., 2] > 200)
    assert yellow.sum() > 800


def test_heading_is_that_of_the_images_top() -> None:
    camera = CameraModel(320, 240, np.array([[250.0, 0, 159.5], [0, 250.0, 119.5], [0, 0, 1]]))
    for heading_deg in (0.0, 90.0, 271.5):
        frame = Frame(None, 0.0, None, 50.0, camera, heading_deg=heading_deg)
        assert heading_of(frame) == pytest.approx(heading_deg)


def test_a_photo_without_a_place_has_no_picture_of_the_map() -> None:
    assert draw_photo(LOST.fix, None) == ()  # type: ignore[arg-type]


def test_files_by_their_ending(tmp_path: Path) -> None:
    found = PhotoRow("DJI_1.JPG", fix_at(58.123456789, -26.5), 58.123456789, -26.5)
    for name in ("a.csv", "a.geojson", "a.json", "a.html"):
        write_rows(tmp_path / name, [found, LOST], "map.tif")
    with (tmp_path / "a.csv").open(newline="") as stream:
        header, first, second = csv.reader(stream)
    assert tuple(header) == COLUMNS
    assert first == ["DJI_1.JPG", "58.12345679", "-26.5", "", "123.46", "2.0", "1.5", "true", ""]
    assert second == ["lost <b>.jpg", "", "", "", "", "", "", "false", "ambiguous: 2 <3:1"]
    collection = json.loads((tmp_path / "a.geojson").read_text())
    assert collection == json.loads((tmp_path / "a.json").read_text())
    assert collection["features"][0]["geometry"] == {"type": "Point", "coordinates": [-26.5, 58.12345679]}
    assert collection["features"][0]["properties"]["from_gps_tag_m"] == 0.0
    assert collection["features"][1]["geometry"] is None
    page = (tmp_path / "a.html").read_text()
    assert "1 of 2 photos located" in page and "lost &lt;b&gt;.jpg" in page and "2 &lt;3:1" in page
    assert math.isnan(LOST.tag_distance_m)
