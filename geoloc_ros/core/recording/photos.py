# SPDX-License-Identifier: Apache-2.0
"""Geotagged photos of a drone: place, height, heading and lens from their EXIF and XMP.

EXIF gives latitude, longitude, GPSImgDirection and the 35 mm equivalent focal length. DJI's XMP (other makers
write it too) adds height above the take-off point and the gimbal's yaw and pitch, -90 degrees being straight down.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from geoloc_models.datasets.faults import UNREADABLE
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation

DIAGONAL_35MM = math.hypot(36.0, 24.0)

ASSUMED_FOCAL_35MM = 24.0
"""For a photo without a stated lens; it only affects how much ground a photo shows, not where."""

# Codes of EXIF 2.3; a latitude's or longitude's letter stands one before it.
_GPS_IFD, _EXIF_IFD = 0x8825, 0x8769
_LATITUDE, _LONGITUDE, _IMG_DIRECTION, _FOCAL_35MM = 2, 4, 17, 0xA405
_XMP_BYTES = 256 * 1024


@dataclass(frozen=True)
class Photo:
    """Tags of one photo; None if the file lacks the tag."""

    path: Path
    lat_deg: float
    lon_deg: float
    height_m: float | None  # above take-off
    heading_deg: float | None  # of the image's top, clockwise from north
    tilt_deg: float | None  # of the optical axis from straight down, towards the image's top
    focal_35mm: float | None

    @classmethod
    def read(cls, path: Path) -> "Photo":
        """Read the tags, not the pixels; GeolocError, to which the caller adds the file, without place or image."""
        try:
            with Image.open(path) as image:
                exif = image.getexif()
                gps, details = exif.get_ifd(_GPS_IFD), exif.get_ifd(_EXIF_IFD)
            with path.open("rb") as stream:
                head = stream.read(_XMP_BYTES)
        except UNREADABLE:
            raise GeolocError("is no readable image") from None
        lat_deg, lon_deg = _degrees(gps, _LATITUDE, "S"), _degrees(gps, _LONGITUDE, "W")
        if lat_deg is None or lon_deg is None or abs(lat_deg) > 90 or abs(lon_deg) > 180:
            raise GeolocError("has no GPS position in its EXIF")
        heading_deg = _xmp(head, "GimbalYawDegree")
        if heading_deg is None:
            heading_deg = _number(gps.get(_IMG_DIRECTION))
        pitch_deg = _xmp(head, "GimbalPitchDegree")
        focal = _number(details.get(_FOCAL_35MM))
        return cls(
            path,
            lat_deg,
            lon_deg,
            height_m=_xmp(head, "RelativeAltitude"),
            heading_deg=heading_deg,
            tilt_deg=None if pitch_deg is None else 90.0 + pitch_deg,
            focal_35mm=focal or None,  # 0 means unknown
        )

    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB, rotated by EXIF's Orientation; GeolocError if the image is damaged."""
        try:
            with Image.open(self.path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except UNREADABLE:
            raise GeolocError("is damaged") from None

    def camera(self, height_px: int, width_px: int) -> CameraModel:
        """A pinhole of the photo's focal length; lens distortion is not in the tags."""
        focal_px = (self.focal_35mm or ASSUMED_FOCAL_35MM) * math.hypot(width_px, height_px) / DIAGONAL_35MM
        matrix = [[focal_px, 0, (width_px - 1) / 2], [0, focal_px, (height_px - 1) / 2], [0, 0, 1]]
        return CameraModel(width_px, height_px, np.array(matrix))

    def rotation(self) -> np.ndarray:
        """(3, 3) optical frame to ENU; north-up and straight down if the tags are missing."""
        angle = math.radians(self.tilt_deg or 0.0)
        c, s = math.cos(angle), math.sin(angle)
        lean = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        return nadir_rotation(self.heading_deg or 0.0) @ lean


def _degrees(gps: Mapping[int, Any], tag: int, negative: str) -> float | None:
    """Signed degrees of a latitude or longitude."""
    parts = gps.get(tag)
    try:
        degrees, minutes, seconds = (float(part) for part in parts)  # type: ignore[union-attr]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value):
        return None
    return -value if str(gps.get(tag - 1, "")).upper().startswith(negative) else value


def _number(value: Any) -> float | None:
    """A finite number of EXIF, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _xmp(head: bytes, name: str) -> float | None:
    """A number of DJI's XMP, written as attribute or as element."""
    match = re.search(rb"drone-dji:" + name.encode() + rb"(?:=\"|>)\s*([-+]?[0-9.]+)", head)
    return _number(match[1]) if match else None
