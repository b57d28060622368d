# SPDX-License-Identifier: Apache-2.0
"""The core's types to the messages of a camera drone's sensors, for the live graph and for bags alike.

Nothing here imports ROS: `make` builds a message of a type's name from its fields. `ros_message` builds rclpy's, the
bag writer has its own for rosbags' types. `stamp` is a builtin_interfaces/Time of the same kind.
"""

import array
import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import quaternion_from_rotation
from geoloc_ros.core.recording.images import JPEG_MAGIC, encode_image
from geoloc_ros.messages.reading import (
    COVARIANCE_TYPE_DIAGONAL_KNOWN,
    COVARIANCE_TYPE_KNOWN,
    COVARIANCE_TYPE_UNKNOWN,
    STATUS_FIX,
    STATUS_NO_FIX,
    Quaternion,
)
from geoloc_ros.messages.stamps import stamp_from_seconds

UNKNOWN_ALTITUDE_VARIANCE_M2 = 1e6
"""Stands in a fix whose altitude is not known: one standard deviation of a kilometre."""

_NO_DATA = np.array([-1.0, *[0.0] * 8])
"""A covariance that begins with -1: the sensor does not measure this (REP-145)."""

Make = Callable[..., Any]
"""make("sensor_msgs/Imu", header=..., ...): a message; pixels are given as bytes, other arrays as numpy's."""


@cache
def _ros_type(name: str) -> Any:
    package, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def ros_message(name: str, **fields: Any) -> Any:
    """rclpy's message of a type such as sensor_msgs/Imu."""
    for key, value in fields.items():
        if isinstance(value, bytes):
            # rclpy checks every element of anything but an array.array, which takes 100 ms for an image.
            fields[key] = array.array("B", value)
        elif isinstance(value, np.ndarray):
            fields[key] = value.tolist()
    return _ros_type(name)(**fields)


def time_from_seconds(seconds: float, make: Make = ros_message) -> Any:
    """The nearest Time at or after the epoch; `seconds_from_time` inverts it in this century."""
    sec, nanosec = stamp_from_seconds(seconds)
    return make("builtin_interfaces/Time", sec=sec, nanosec=nanosec)


def header(stamp: Any, frame_id: str, make: Make = ros_message) -> Any:
    """std_msgs/Header."""
    return make("std_msgs/Header", stamp=stamp, frame_id=frame_id)


# --- camera -------------------------------------------------------------------------------------------------


def image_from_rgb(
    image: np.ndarray, stamp: Any, frame_id: str, encoding: str = "rgb8", make: Make = ros_message
) -> Any:
    """An Image in any encoding that core/recording/images.py knows from (h, w, 3) uint8 RGB."""
    data, step = encode_image(image, encoding)
    return make(
        "sensor_msgs/Image", header=header(stamp, frame_id, make), height=image.shape[0], width=image.shape[1],
        encoding=encoding, is_bigendian=0, step=step, data=data,
    )  # fmt: skip


def compressed_from_rgb(image: np.ndarray, stamp: Any, frame_id: str, form: str = "jpeg", quality: int = 95) -> Any:
    """A CompressedImage (`form`: jpeg or png) from (h, w, 3) uint8 RGB; `quality` 1..100 is JPEG's."""
    if form not in ("jpeg", "png"):
        raise GeolocError(f"compressed format '{form}' is not supported; use jpeg or png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpeg" else []
    _, data = cv2.imencode(f".{form}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return compressed_from_file(data.tobytes(), stamp, frame_id)


def compressed_from_file(data: bytes, stamp: Any, frame_id: str, make: Make = ros_message) -> Any:
    """A CompressedImage of a JPEG or PNG file's bytes, as they are."""
    form = "jpeg" if data.startswith(JPEG_MAGIC) else "png"
    return make(
        "sensor_msgs/CompressedImage", header=header(stamp, frame_id, make),
        format=f"bgr8; {form} compressed bgr8", data=data,
    )  # fmt: skip


def info_from_camera(camera: CameraModel, stamp: Any, frame_id: str, make: Make = ros_message) -> Any:
    """CameraInfo of a monocular camera: R is identity and P repeats K."""
    whole = make("sensor_msgs/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return make(
        "sensor_msgs/CameraInfo", header=header(stamp, frame_id, make), height=camera.height, width=camera.width,
        distortion_model=camera.model, d=np.array(camera.distortion, np.float64), k=camera.matrix.ravel(),
        r=np.eye(3).ravel(), p=np.hstack([camera.matrix, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0,
        roi=whole,
    )  # fmt: skip


# --- attitude and height ------------------------------------------------------------------------------------


def imu_from_rotation(rotation_enu_from_body: np.ndarray, stamp: Any, frame_id: str) -> Any:
    """Imu with an orientation only. A rotation that is not finite becomes a quaternion that is not."""
    known = bool(np.all(np.isfinite(rotation_enu_from_body)))
    quaternion = quaternion_from_rotation(rotation_enu_from_body) if known else (math.nan,) * 4
    return imu_from_quaternion(quaternion, None, stamp, frame_id)


def imu_from_quaternion(
    quaternion: Quaternion,
    rates_rad_s: tuple[float, float, float] | None,
    stamp: Any,
    frame_id: str,
    make: Make = ros_message,
) -> Any:
    """Imu of an attitude (x, y, z, w; ENU from FLU body) and angular rates about the body's axes, if there are any."""

    def vector(x: float, y: float, z: float) -> Any:
        return make("geometry_msgs/Vector3", x=x, y=y, z=z)

    x, y, z, w = quaternion
    return make(
        "sensor_msgs/Imu", header=header(stamp, frame_id, make),
        orientation=make("geometry_msgs/Quaternion", x=x, y=y, z=z, w=w), orientation_covariance=np.zeros(9),
        angular_velocity=vector(*(rates_rad_s or (0.0, 0.0, 0.0))),
        angular_velocity_covariance=_NO_DATA if rates_rad_s is None else np.zeros(9),
        linear_acceleration=vector(0.0, 0.0, 0.0), linear_acceleration_covariance=_NO_DATA,
    )  # fmt: skip


def float64(value: float, make: Make = ros_message) -> Any:
    """std_msgs/Float64, such as a height above ground in m; it has no stamp."""
    return make("std_msgs/Float64", data=float(value))


def range_from_height(height_m: float, stamp: Any, frame_id: str) -> Any:
    """Height above ground as a Range (stamped, float32)."""
    return ros_message(
        "sensor_msgs/Range", header=header(stamp, frame_id), min_range=0.0, max_range=1e5, range=float(height_m)
    )


# --- positions ----------------------------------------------------------------------------------------------


def fix_from_position(
    lat_deg: float,
    lon_deg: float,
    altitude_m: float,
    covariance_enu_m2: np.ndarray,
    altitude_variance_m2: float,
    stamp: Any,
    frame_id: str,
    covariance_type: int = COVARIANCE_TYPE_KNOWN,
    make: Make = ros_message,
) -> Any:
    """A valid NavSatFix. covariance_enu_m2: (2, 2), east and north; altitude: ellipsoidal, NaN if unknown."""
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = covariance_enu_m2
    covariance[2, 2] = altitude_variance_m2 if math.isfinite(altitude_m) else UNKNOWN_ALTITUDE_VARIANCE_M2
    return make(
        "sensor_msgs/NavSatFix", header=header(stamp, frame_id, make),
        status=make("sensor_msgs/NavSatStatus", status=STATUS_FIX, service=0), latitude=float(lat_deg),
        longitude=float(lon_deg), altitude=float(altitude_m), position_covariance=covariance.ravel(),
        position_covariance_type=covariance_type,
    )  # fmt: skip


def fix_from_truth(lat_deg: float, lon_deg: float, stamp: Any, frame_id: str, make: Make = ros_message) -> Any:
    """The NavSatFix of a recording's true place, which counts as exact and has no ellipsoidal altitude."""
    return fix_from_position(lat_deg, lon_deg, math.nan, np.zeros((2, 2)), 0.0, stamp, frame_id, make=make)


def fix_from_receiver(
    place: tuple[float, float, float], sigma_m: tuple[float, float], stamp: Any, frame_id: str
) -> Any:
    """A receiver's fix. place: latitude, longitude, ellipsoidal altitude; sigma_m: horizontal and vertical standard
    deviation, NaN where the receiver gives none.
    """
    variances = [0.0 if math.isnan(sigma) else sigma * sigma for sigma in sigma_m]
    unknown = math.isnan(sigma_m[0])
    covariance_type = COVARIANCE_TYPE_UNKNOWN if unknown else COVARIANCE_TYPE_DIAGONAL_KNOWN
    return fix_from_position(*place, np.eye(2) * variances[0], variances[1], stamp, frame_id, covariance_type)


def no_fix(stamp: Any, frame_id: str) -> Any:
    """NO_FIX with NaN position, for a frame without an answer."""
    return ros_message(
        "sensor_msgs/NavSatFix", header=header(stamp, frame_id),
        status=ros_message("sensor_msgs/NavSatStatus", status=STATUS_NO_FIX),
        latitude=math.nan, longitude=math.nan, altitude=math.nan,
    )  # fmt: skip
