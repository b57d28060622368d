# SPDX-License-Identifier: Apache-2.0
"""Geotagged photos of a drone: place, height, heading and lens from their EXIF and XMP.

EXIF gives latitude, longitude, GPSImgDirection, the 35 mm equivalent focal length and the time. The XMP of DJI, Autel,
Parrot and Skydio adds height above the take-off point and the camera's yaw and pitch, -90 degrees being straight down.
"""

import calendar
import math
import re
import time
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
_TIME, _TIME_FRACTION = 0x9003, 0x9291
_XMP_BYTES = 256 * 1024
# In the order of preference; "drone" is Autel's. Skydio nests the angles in a structure.
_SKYDIO_ANGLES = "drone-skydio:CameraOrientationNED"
_HEIGHT_TAGS = (
    "drone-dji:RelativeAltitude",
    "drone:RelativeAltitude",
    "drone-skydio:RelativeAltitude",
    "Camera:AboveGroundAltitude",
)
_YAW_TAGS = ("drone-dji:GimbalYawDegree", "drone:GimbalYawDegree", "drone-parrot:CameraYawDegree")
_PITCH_TAGS = ("drone-dji:GimbalPitchDegree", "drone:GimbalPitchDegree", "drone-parrot:CameraPitchDegree")
_BACKWARDS_DEG = -30.0
"""Least Camera:Pitch, which counts from straight down: some Autels write it from the horizon, as DJI does."""


@dataclass(frozen=True)
class Photo:
    """Tags of one photo; None if the file lacks the tag, NaN for a place that it may lack."""

    path: Path
    lat_deg: float
    lon_deg: float
    height_m: float | None  # above take-off
    heading_deg: float | None  # of the image's top, clockwise from north
    tilt_deg: float | None  # of the optical axis from straight down, towards the image's top
    focal_35mm: float | None
    taken_s: float | None = None  # by the camera's clock, as if that were UTC

    @classmethod
    def read(cls, path: Path, placed: bool = True) -> "Photo":
        """Read the tags, not the pixels. placed: whether it must state its place.

        GeolocError, to which the caller adds the file, without place or image.
        """
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
            if placed:
                raise GeolocError("has no GPS position in its EXIF")
            lat_deg = lon_deg = math.nan
        heading_deg, pitch_deg = _angles(head)
        if heading_deg is None:
            heading_deg = _number(gps.get(_IMG_DIRECTION))
        focal = _number(details.get(_FOCAL_35MM))
        return cls(
            path,
            lat_deg,
            lon_deg,
            height_m=_xmp(head, *_HEIGHT_TAGS),
            heading_deg=heading_deg,
            tilt_deg=None if pitch_deg is None else 90.0 + pitch_deg,
            focal_35mm=focal or None,  # 0 means unknown
            taken_s=_time(details),
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


def _time(details: Mapping[int, Any]) -> float | None:
    """Seconds since 1970 of DateTimeOriginal and its fraction."""
    try:
        whole = calendar.timegm(time.strptime(str(details.get(_TIME)), "%Y:%m:%d %H:%M:%S"))
    except ValueError:
        return None
    fraction = re.match(r"\d+", str(details.get(_TIME_FRACTION, "")))
    return whole + (float(f"0.{fraction[0]}") if fraction else 0.0)


def _angles(head: bytes) -> tuple[float | None, float | None]:
    """The camera's yaw, clockwise from north, and its pitch from the horizon, degrees."""
    yaw_deg, pitch_deg = _xmp(head, *_YAW_TAGS), _xmp(head, *_PITCH_TAGS)
    skydio = head.find(_SKYDIO_ANGLES.encode())
    if skydio >= 0:
        nested = head[skydio : skydio + 500]
        yaw_deg, pitch_deg = _xmp(nested, "drone-skydio:Yaw"), _xmp(nested, "drone-skydio:Pitch")
    if yaw_deg is None:
        yaw_deg = _xmp(head, "Camera:Yaw")
    if pitch_deg is None:
        pitch_deg = _xmp(head, "Camera:Pitch")
        if pitch_deg is not None and pitch_deg >= _BACKWARDS_DEG:
            pitch_deg -= 90.0
    return yaw_deg, pitch_deg


def _xmp(head: bytes, *names: str) -> float | None:
    """The first of these numbers that the XMP has, written as attribute or as element."""
    for name in names:
        match = re.search(rb"(?<![\w-])" + name.encode() + rb"(?:=[\"']|>)\s*([-+]?[0-9.]+)", head)
        if match:
            return _number(match[1])
    return None
