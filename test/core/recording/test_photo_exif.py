# SPDX-License-Identifier: Apache-2.0
"""Places in copies of photos: read back as written, and nothing else changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.photo_exif import write_place
from geoloc_ros.core.recording.photos import Photo

WritePhoto = Callable[..., Path]
XMP = '<rdf:Description drone-dji:RelativeAltitude="+80.30" drone-dji:GimbalPitchDegree="-89.90"/>'
TEXTURE = np.random.default_rng(3).integers(0, 255, (60, 80, 3), np.uint8)


@pytest.mark.parametrize(("lat_deg", "lon_deg"), [(58.123456789, -26.99999999), (-33.5, 151.0)])
@pytest.mark.parametrize("tagged", [True, False])
def test_the_place_is_in_the_copy_alone(
    lat_deg: float, lon_deg: float, tagged: bool, tmp_path: Path, write_photo: WritePhoto
) -> None:
    tags = {"lat_deg": 10.0, "lon_deg": 20.0, "focal_35mm": 24, "xmp": XMP} if tagged else {}
    photo = write_photo(tmp_path / "a.jpg", TEXTURE, **tags)
    before = photo.read_bytes()
    copy = tmp_path / "out" / "a.jpg"
    write_place(photo, copy, lat_deg, lon_deg, 123.456, 3.5)
    assert photo.read_bytes() == before
    read = Photo.read(copy)
    assert (read.lat_deg, read.lon_deg) == pytest.approx((lat_deg, lon_deg), abs=1e-8)
    assert read.heading_deg == pytest.approx(123.46)
    if tagged:
        assert (read.focal_35mm, read.height_m) == (24.0, 80.3)
    with Image.open(copy) as image:
        gps = image.getexif().get_ifd(0x8825)
    assert (gps[16], gps[18], float(gps[31])) == ("T", "WGS-84", 3.5)
    # From the quantization tables on, which the pixels depend on, not a byte differs.
    start = before.index(b"\xff\xdb")
    assert copy.read_bytes().endswith(before[start:])


def test_never_over_the_original(tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = write_photo(tmp_path / "a.jpg", TEXTURE)
    with pytest.raises(GeolocError, match="give --write-exif another folder"):
        write_place(photo, tmp_path / "." / "a.jpg", 1.0, 2.0, 3.0, 4.0)


def test_jpeg_alone(tmp_path: Path) -> None:
    Image.fromarray(TEXTURE).save(tmp_path / "a.png")
    with pytest.raises(GeolocError, match="is no JPEG"):
        write_place(tmp_path / "a.png", tmp_path / "b.png", 1.0, 2.0, 3.0, 4.0)
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(GeolocError, match="is no readable image"):
        write_place(tmp_path / "c.jpg", tmp_path / "d.jpg", 1.0, 2.0, 3.0, 4.0)
