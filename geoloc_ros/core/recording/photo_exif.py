# SPDX-License-Identifier: Apache-2.0
"""Writes a place into the EXIF of a copy of a JPEG; pixels and all other segments stay as they are, byte by byte."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from geoloc_models.datasets.faults import UNREADABLE
from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.images import JPEG_MAGIC

# Codes of EXIF 2.31.
_GPS_IFD = 0x8825
_LATITUDE, _LONGITUDE, _DIRECTION, _DATUM, _METHOD, _ERROR = 2, 4, 17, 18, 27, 31
_EXIF = b"Exif\0\0"
_APP0, _APP1, _START_OF_SCAN = 0xE0, 0xE1, 0xDA
_LARGEST_SEGMENT = 0xFFFF - 2


def write_place(photo: Path, copy: Path, lat_deg: float, lon_deg: float, heading_deg: float, sigma_m: float) -> None:
    """Write `copy` with the place, the heading of the image's top and one standard deviation in the GPS tags.

    GeolocError, to which the caller adds the file: the photo is no JPEG, or the copy would be the photo itself.
    """
    if copy.exists() and copy.samefile(photo):
        raise GeolocError("would be overwritten: give --write-exif another folder")
    data = photo.read_bytes()
    try:
        with Image.open(photo) as image:
            exif = image.getexif()
            gps = dict(exif.get_ifd(_GPS_IFD))
    except UNREADABLE:
        raise GeolocError("is no readable image") from None
    if not data.startswith(JPEG_MAGIC):
        raise GeolocError("is no JPEG: EXIF is written into JPEG files only")
    for tag, value, letters in ((_LATITUDE, lat_deg, "NS"), (_LONGITUDE, lon_deg, "EW")):
        gps[tag - 1], gps[tag] = letters[value < 0], _sexagesimal(abs(value))
    gps |= {_DIRECTION - 1: "T", _DIRECTION: round(heading_deg, 2), _DATUM: "WGS-84", _ERROR: round(sigma_m, 2)}
    gps[_METHOD] = b"ASCII\0\0\0geoloc"
    exif[_GPS_IFD] = gps
    written = exif.tobytes()
    if len(written) > _LARGEST_SEGMENT:
        raise GeolocError("has so much EXIF that the place does not fit in")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(_with_exif(data, written))


def _sexagesimal(value: float) -> tuple[float, float, float]:
    """Degrees, minutes and seconds to 1e-5 seconds, 0.3 mm."""
    total = round(value * 3600, 5)
    return total // 3600, total % 3600 // 60, round(total % 60, 5)


def _with_exif(data: bytes, exif: bytes) -> bytes:
    """A JPEG with this EXIF in place of its own."""
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    kept, after_app0 = [], 0
    end = 2
    for marker, start, end in _segments(data):
        if marker == _APP1 and data[start + 4 : start + 10] == _EXIF:
            continue
        kept.append(data[start:end])
        if marker == _APP0 and len(kept) == after_app0 + 1:
            after_app0 += 1
    kept.insert(after_app0, segment)
    return JPEG_MAGIC + b"".join(kept) + data[end:]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments before the compressed image."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _START_OF_SCAN:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield data[start + 1], start, end
        start = end
