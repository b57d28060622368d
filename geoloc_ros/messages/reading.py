# SPDX-License-Identifier: Apache-2.0
"""Messages to the core's types, for the live graph and for bags alike: one rule for each value, whichever way it comes.

Only a message's fields count, so rclpy's messages and those that rosbags decodes are read by the same functions, and
nothing here imports ROS. Frames follow REP-103 and REP-105: an attitude turns the FLU body into ENU, positions are
WGS84. What a message can get wrong ends in a GeolocError with the reason.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.px4_frames import enu_from_flu_quaternion, height_above_ground_m
from geoloc_ros.core.geometry.rectify import check_height
from geoloc_ros.core.geometry.rotations import rotation_from_quaternion
from geoloc_ros.core.recording.images import decode_compressed, decode_image

DISTORTION_MODELS = {
    "": "plumb_bob",  # drivers that do not calibrate leave it empty
    "plumb_bob": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
}

# Of sensor_msgs/NavSatStatus and NavSatFix.
STATUS_FIX, STATUS_NO_FIX = 0, -1
COVARIANCE_TYPE_UNKNOWN, COVARIANCE_TYPE_DIAGONAL_KNOWN, COVARIANCE_TYPE_KNOWN = 0, 2, 3

Quaternion = tuple[float, float, float, float]
"""(qx, qy, qz, qw)."""


def rgb_from_image(message: Any) -> np.ndarray:
    """Pixels of an Image or CompressedImage as (h, w, 3) uint8 RGB.

    GeolocError for an unknown encoding or a truncated image.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data)
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.data, message.is_bigendian
    )


def camera_from_info(message: Any) -> CameraModel:
    """The camera as the images have it: K and D, moved to the region of interest and binned where set."""
    model = DISTORTION_MODELS.get(message.distortion_model)
    if model is None:
        raise GeolocError(
            f"camera_info has distortion model '{message.distortion_model}'; "
            f"supported are {', '.join(name for name in DISTORTION_MODELS if name)}"
        )
    matrix = np.array(message.k, dtype=np.float64).reshape(3, 3)
    roi = message.roi
    width, height = roi.width or message.width, roi.height or message.height
    matrix[:2, 2] -= roi.x_offset, roi.y_offset
    for row, binning in ((0, message.binning_x), (1, message.binning_y)):
        if binning > 1:
            # Whole numbers are pixel centres, so the corner at -0.5 stays where it is.
            matrix[row] /= binning
            matrix[row, 2] += 0.5 / binning - 0.5
    width, height = width // max(1, message.binning_x), height // max(1, message.binning_y)
    return CameraModel(width, height, matrix, tuple(message.d), model)


def has_orientation(message: Any) -> bool:
    """Whether an attitude message has one at all: an Imu whose covariance begins with -1 has none (REP-145)."""
    return hasattr(message, "q") or bool(message.orientation_covariance[0] != -1.0)


def quaternion_from_imu(message: Any) -> Quaternion:
    """(qx, qy, qz, qw), ENU from FLU body, of an Imu or of PX4's VehicleAttitude.

    GeolocError where there is none or it is no rotation: a zero quaternion means that the sender has no attitude.
    """
    if hasattr(message, "q"):
        quaternion = enu_from_flu_quaternion(*map(float, message.q))
    elif has_orientation(message):
        q = message.orientation
        quaternion = q.x, q.y, q.z, q.w
    else:
        raise GeolocError(
            "imu message carries no orientation (its covariance starts with -1); "
            "connect an attitude estimator such as /mavros/imu/data"
        )
    rotation_from_quaternion(*quaternion)  # refuses NaN and zero
    return quaternion


def height_from_altitude(message: Any) -> float:
    """Height above ground of a Float64, a Range or PX4's VehicleLocalPosition, m.

    GeolocError for NaN, a height <= 0 or beyond MAX_HEIGHT_M, or a range outside the sensor's limits.
    """
    if hasattr(message, "dist_bottom"):
        height_m = height_from_px4(message)
    elif hasattr(message, "data"):
        height_m = message.data
    else:
        height_m = message.range
        if message.max_range > message.min_range and not message.min_range <= height_m <= message.max_range:
            raise GeolocError(
                f"range {height_m:.2f} m is outside the sensor's limits {message.min_range:.2f} to "
                f"{message.max_range:.2f} m; the ground is out of its reach"
            )
    check_height(height_m)
    return float(height_m)


def height_from_px4(message: Any) -> float:
    """Height above ground of a VehicleLocalPosition as it is, m; NaN if PX4 has none."""
    return height_above_ground_m(
        bool(message.z_valid), float(message.z), bool(message.dist_bottom_valid), float(message.dist_bottom)
    )


def altitude_amsl_from_px4(message: Any) -> float:
    """Altitude above mean sea level of a VehicleLocalPosition, m; NaN if PX4 has none."""
    return float(message.ref_alt - message.z) if message.z_valid and message.z_global else math.nan


@dataclass(frozen=True)
class GnssFix:
    """A valid NavSatFix: place, ellipsoidal altitude (NaN where unknown), largest horizontal deviation."""

    lat_deg: float
    lon_deg: float
    altitude_m: float
    sigma_m: float  # one standard deviation; 0 where the receiver gives none


def gnss_from_fix(message: Any) -> GnssFix | None:
    """The fix, or None while the receiver has none (NO_FIX, NaN, impossible coordinates, infinite variance)."""
    lat_deg, lon_deg = message.latitude, message.longitude
    if message.status.status < STATUS_FIX:
        return None
    if not (math.isfinite(lat_deg) and math.isfinite(lon_deg) and abs(lat_deg) <= 90 and abs(lon_deg) <= 180):
        return None
    variance = max(message.position_covariance[0], message.position_covariance[4])
    if math.isinf(variance):
        return None
    known = message.position_covariance_type != COVARIANCE_TYPE_UNKNOWN and variance > 0
    return GnssFix(lat_deg, lon_deg, message.altitude, math.sqrt(variance) if known else 0.0)


@dataclass(frozen=True)
class Motion:
    """Odometry (VIO); without an imu its frame must be north-aligned ENU, as MAVROS's local frame is."""

    heading_deg: float  # of the nose, clockwise from north
    velocity_enu_m_s: tuple[float, float, float]  # in its frame
    sigma_m_s: float  # standard deviation of the horizontal velocity's worse axis; NaN where none is given
    position_m: np.ndarray  # (3,) in its frame
    rotation_odom_from_body: np.ndarray  # (3, 3)
    frame_id: str


def motion_from_odometry(message: Any) -> Motion:
    """Heading, velocity and pose; GeolocError for an attitude or velocity that is not finite."""
    q, linear = message.pose.pose.orientation, message.twist.twist.linear
    rotation = rotation_from_quaternion(q.x, q.y, q.z, q.w)
    east, north, up = (rotation @ [linear.x, linear.y, linear.z]).tolist()  # twist is in the body frame
    if not all(map(math.isfinite, (east, north, up))):
        raise GeolocError("velocity of the odometry is not finite; check the VIO")
    heading_deg = math.degrees(math.atan2(rotation[0, 0], rotation[1, 0]))
    place = message.pose.pose.position
    position_m = np.array([place.x, place.y, place.z])
    covariance = rotation @ np.array(message.twist.covariance, dtype=np.float64).reshape(6, 6)[:3, :3] @ rotation.T
    variance = max(covariance[0, 0], covariance[1, 1])
    sigma_m_s = math.sqrt(variance) if variance > 0 else math.nan
    return Motion(heading_deg, (east, north, up), sigma_m_s, position_m, rotation, message.header.frame_id)


def velocity_from_odometry(message: Any) -> tuple[float, float, float]:
    """(east, north) velocity and its larger standard deviation, m/s, of an odometry whose frame is ENU, as ours."""
    motion = motion_from_odometry(message)
    east_m_s, north_m_s, _ = motion.velocity_enu_m_s
    return east_m_s, north_m_s, motion.sigma_m_s


def rotation_from_odom(motion: Motion, attitude: Quaternion | None) -> np.ndarray:
    """(3, 3) ENU from the odometry's frame. attitude: ENU from FLU body by the imu, as odometry may not be
    north-aligned.
    """
    if attitude is None:
        return np.eye(3)
    return rotation_from_quaternion(*attitude) @ motion.rotation_odom_from_body.T
