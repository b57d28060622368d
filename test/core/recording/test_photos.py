# SPDX-License-Identifier: Apache-2.0
"""Photo tags: EXIF positions of all four quarters, DJI's XMP in both spellings, and what is missing."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.photos import Photo

GREY = np.full((60, 80, 3), 99, np.uint8)

WritePhoto = Callable[..., Path]


@pytest.mark.parametrize(("lat_deg", "lon_deg"), [(49.123456, 9.654321), (-33.8568, 151.2153), (-0.25, -78.5)])
def test_position_of_every_quarter(lat_deg: float, lon_deg: float, tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, lat_deg, lon_deg))
    # EXIF's fractions keep a millimetre or so.
    assert (photo.lat_deg, photo.lon_deg) == pytest.approx((lat_deg, lon_deg), abs=2e-8)
    assert photo.height_m is None and photo.heading_deg is None and photo.tilt_deg is None
    assert photo.focal_35mm is None


@pytest.mark.parametrize(
    "xmp",
    [
        '<rdf:Description drone-dji:RelativeAltitude="+80.30" drone-dji:GimbalYawDegree="-12.5"'
        ' drone-dji:GimbalPitchDegree="-89.90"/>',
        "<drone-dji:RelativeAltitude>+80.30</drone-dji:RelativeAltitude><drone-dji:GimbalYawDegree>-12.5"
        "</drone-dji:GimbalYawDegree><drone-dji:GimbalPitchDegree>-89.90</drone-dji:GimbalPitchDegree>",
    ],
)
def test_dji_tags_in_both_spellings(xmp: str, tmp_path: Path, write_photo: WritePhoto) -> None:
    path = write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=200.0, focal_35mm=24, xmp=xmp)
    photo = Photo.read(path)
    assert photo.height_m == 80.3
    assert photo.heading_deg == -12.5  # the gimbal's, not GPSImgDirection's
    assert photo.tilt_deg == pytest.approx(0.1)
    assert photo.focal_35mm == 24.0


def test_direction_of_exif_where_there_is_no_gimbal(tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=200.25))
    assert photo.heading_deg == 200.25


def test_attitude_by_hand(tmp_path: Path, write_photo: WritePhoto) -> None:
    """Heading east and leaning 20 degrees forward: the axis points down and east, the right side south."""
    xmp = '<a drone-dji:GimbalYawDegree="90" drone-dji:GimbalPitchDegree="-70"/>'
    rotation = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, xmp=xmp)).rotation()
    lean = math.radians(20)
    assert rotation @ [0, 0, 1] == pytest.approx([math.sin(lean), 0, -math.cos(lean)])
    assert rotation @ [1, 0, 0] == pytest.approx([0, -1, 0], abs=1e-12)


def test_field_of_view_of_a_35mm_lens(tmp_path: Path, write_photo: WritePhoto) -> None:
    """24 mm see 84 degrees along the diagonal (ISO's 43.27 mm), whatever the image's shape."""
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, focal_35mm=24))
    camera = photo.camera(3000, 4000)
    assert math.degrees(2 * math.atan(2500 / camera.matrix[0, 0])) == pytest.approx(84.06, abs=0.02)


def test_picture_stands_as_its_orientation_says(tmp_path: Path, write_photo: WritePhoto) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :40] = 255
    pixels = Photo.read(write_photo(tmp_path / "a.jpg", image, 49.0, 9.0, orientation=6)).pixels()
    assert pixels.shape == (80, 60, 3)
    assert pixels[:30].mean() > 250 and pixels[50:].mean() < 5


def test_what_is_missing_is_told(tmp_path: Path, write_photo: WritePhoto) -> None:
    with pytest.raises(GeolocError, match="has no GPS position in its EXIF"):
        Photo.read(write_photo(tmp_path / "a.jpg", GREY))
    with pytest.raises(GeolocError, match="has no GPS position in its EXIF"):
        Photo.read(write_photo(tmp_path / "b.jpg", GREY, lat_deg=40.0))
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(GeolocError, match="is no readable image"):
        Photo.read(tmp_path / "c.jpg")
    path = write_photo(tmp_path / "d.jpg", np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8), 40, 9)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(GeolocError, match="is damaged"):
        Photo.read(path).pixels()
