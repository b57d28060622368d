# SPDX-License-Identifier: Apache-2.0
"""Geotagged photos of a drone: place, height, heading and lens from their EXIF and XMP.

EXIF gives latitude, longitude, GPSImgDirection, the 35 mm equivalent focal length and the time. The XMP of DJI, Autel,
Parrot and Skydio adds height above the take-off point and the camera's yaw, pitch and roll, a pitch of -90 degrees
being straight down. A gimbal's angles are those of the stored image, which EXIF's Orientation then does not turn.
"""

import calendar
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from geoloc_models.datasets.faults import UNREADABLE
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.images import to_8_bits

DIAGONAL_35MM = math.hypot(36.0, 24.0)

ASSUMED_FOCAL_35MM = 24.0
"""For a photo without a stated lens; it only affects how much ground a photo shows, not where."""

# Codes of EXIF 2.3; a latitude's or longitude's letter stands one before it.
_GPS_IFD, _EXIF_IFD = 0x8825, 0x8769
_LATITUDE, _LONGITUDE, _IMG_DIRECTION, _FOCAL_35MM = 2, 4, 17, 0xA405
_ORIENTATION, _TIME, _TIME_FRACTION = 0x0112, 0x9003, 0x9291
_XMP_TAG = 700
"""Of a TIFF."""
_XMP_BYTES = 256 * 1024
"""Searched beside the XMP proper, which some software does not write where it belongs."""
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
_ROLL_TAGS = ("drone-dji:GimbalRollDegree", "drone:GimbalRollDegree", "drone-parrot:CameraRollDegree")
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
    roll_deg: float | None = None  # of the image about the optical axis, clockwise seen from behind the camera
    has_gimbal: bool = False  # whether heading, tilt and roll are a gimbal's, and so those of the stored image

    @classmethod
    def read(cls, path: Path, placed: bool = True) -> "Photo":
        """Read the tags, not the pixels. placed: whether it must state its place.

        GeolocError, to which the caller adds the file, without place or image.
        """
        try:
            with Image.open(path) as image:
                exif = image.getexif()
                gps, details = exif.get_ifd(_GPS_IFD), exif.get_ifd(_EXIF_IFD)
                xmp = image.info.get("xmp") or exif.get(_XMP_TAG)
            with path.open("rb") as stream:
                head = (xmp if isinstance(xmp, bytes) else b"") + stream.read(_XMP_BYTES)
        except UNREADABLE:
            raise GeolocError("is no readable image") from None
        lat_deg, lon_deg = _degrees(gps, _LATITUDE, "S"), _degrees(gps, _LONGITUDE, "W")
        if lat_deg is None or lon_deg is None or abs(lat_deg) > 90 or abs(lon_deg) > 180:
            if placed:
                raise GeolocError("has no GPS position in its EXIF")
            lat_deg = lon_deg = math.nan
        yaw_deg, pitch_deg, roll_deg = _angles(head)
        focal = _number(details.get(_FOCAL_35MM))
        return cls(
            path,
            lat_deg,
            lon_deg,
            height_m=_xmp(head, *_HEIGHT_TAGS),
            heading_deg=_number(gps.get(_IMG_DIRECTION)) if yaw_deg is None else yaw_deg,
            tilt_deg=None if pitch_deg is None else 90.0 + pitch_deg,
            focal_35mm=focal or None,  # 0 means unknown
            taken_s=_time(details),
            # Past straight down a gimbal's yaw turns round, and its roll with it: one means nothing without the other.
            roll_deg=None if yaw_deg is None else roll_deg,
            has_gimbal=yaw_deg is not None,
        )

    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB, turned by EXIF's Orientation unless a gimbal gives the stored image's attitude.

        More than 8 bits become 8 by `images.to_8_bits`. GeolocError if the image is damaged.
        """
        try:
            with Image.open(self.path) as image:
                values = _deep_values(self.path, image)
                if values is not None:
                    shallow = Image.fromarray(to_8_bits(values))
                    shallow.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
                    image = shallow
                turned = image if self.has_gimbal else ImageOps.exif_transpose(image)
                return np.asarray(turned.convert("RGB"))
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
        angle = math.radians(self.roll_deg or 0.0)
        c, s = math.cos(angle), math.sin(angle)
        roll = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return nadir_rotation(self.heading_deg or 0.0) @ lean @ roll


def _deep_values(path: Path, image: Image.Image) -> np.ndarray | None:
    """Values of more than 8 bits, (h, w) or (h, w, 3) RGB; None for an image of 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.format not in ("TIFF", "PNG") or image.mode != "RGB":
        return None
    # PIL cuts colours to 8 bits.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    return None if values is None or values.dtype == np.uint8 else values[..., ::-1]


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


def _angles(head: bytes) -> tuple[float | None, float | None, float | None]:
    """The camera's yaw, clockwise from north, its pitch from the horizon and its roll, degrees, in turning order."""
    yaw_deg, pitch_deg, roll_deg = _xmp(head, *_YAW_TAGS), _xmp(head, *_PITCH_TAGS), _xmp(head, *_ROLL_TAGS)
    skydio = head.find(_SKYDIO_ANGLES.encode())
    if skydio >= 0:
        nested = head[skydio : skydio + 500]
        yaw_deg, pitch_deg, roll_deg = (_xmp(nested, f"drone-skydio:{name}") for name in ("Yaw", "Pitch", "Roll"))
    if yaw_deg is None:
        yaw_deg = _xmp(head, "Camera:Yaw")
    if pitch_deg is None:
        pitch_deg = _xmp(head, "Camera:Pitch")
        if pitch_deg is not None and pitch_deg >= _BACKWARDS_DEG:
            pitch_deg -= 90.0
    return yaw_deg, pitch_deg, roll_deg


def _xmp(head: bytes, *names: str) -> float | None:
    """The first of these numbers that the XMP has, written as attribute or as element."""
    for name in names:
        match = re.search(rb"(?<![\w-])" + name.encode() + rb"(?:\s*=\s*[\"']|>)\s*([-+]?[0-9.]+)", head)
        if match:
            return _number(match[1])
    return None
