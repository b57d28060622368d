# SPDX-License-Identifier: Apache-2.0
"""PX4's messages to ROS's and back. px4_msgs is there only where somebody built it, so only their fields count."""

import math
from typing import Any

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Imu, NavSatFix

from geoloc_ros.core.autopilot.fix_gate import Decision, Fix
from geoloc_ros.core.geometry.geoid import undulation_m
from geoloc_ros.core.geometry.px4_frames import Origin, ned_from_frd_quaternion, px4_local_m
from geoloc_ros.core.geometry.rotations import quaternion_with_heading, rotation_from_quaternion
from geoloc_ros.core.localization.body_pose import UNKNOWN_VARIANCE
from geoloc_ros.messages.reading import Quaternion, quaternion_from_imu
from geoloc_ros.messages.sensors import fix_from_receiver, imu_from_rotation, no_fix


def time_from_px4(message: Any, behind_s: float = 0.0) -> Time:
    """The moment of a PX4 message's measurement. behind_s: by how much PX4's clock is behind ours."""
    timestamp_us = (message.timestamp_sample or message.timestamp) + round(behind_s * 1e6)
    return Time(sec=timestamp_us // 1_000_000, nanosec=timestamp_us % 1_000_000 * 1000)


def imu_from_px4(message: Any, frame_id: str, behind_s: float) -> Imu:
    """VehicleAttitude as ENU from FLU; behind_s as for time_from_px4. GeolocError for a quaternion that is none."""
    rotation = rotation_from_quaternion(*quaternion_from_imu(message))
    return imu_from_rotation(rotation, time_from_px4(message, behind_s), frame_id)


def gnss_from_px4(message: Any, frame_id: str, behind_s: float) -> NavSatFix:
    """SensorGps as NavSatFix; behind_s as for time_from_px4. NO_FIX with NaN unless it has three dimensions."""
    stamp = time_from_px4(message, behind_s)
    if message.fix_type < message.FIX_TYPE_3D:
        return no_fix(stamp, frame_id)
    place = (message.latitude_deg, message.longitude_deg, message.altitude_ellipsoid_m)
    return fix_from_receiver(place, (message.eph, message.epv), stamp, frame_id)


def aux_position_from_fix(kind: Any, fix: Fix, decision: Decision, source_id: int) -> Any:
    """PX4's auxiliary global position: AuxGlobalPosition, or VehicleGlobalPosition up to 1.17, as `kind` says.

    timestamp 0 has PX4 put in the moment of arrival.
    """
    message = kind(timestamp=0, timestamp_sample=round(fix.stamp_s * 1e6))
    message.lat, message.lon, message.alt = fix.lat_deg, fix.lon_deg, fix.altitude_m
    message.eph, message.epv = decision.eph_m, decision.epv_m
    message.lat_lon_reset_counter = decision.reset_counter
    if hasattr(message, "source"):
        message.id, message.source = source_id, kind.SOURCE_VISION
    else:
        message.alt_ellipsoid = fix.altitude_m + undulation_m(fix.lat_deg, fix.lon_deg)
    if hasattr(message, "lat_lon_valid"):  # not in 1.15
        message.lat_lon_valid = message.alt_valid = True
    return message


def origin_from_px4(message: Any) -> Origin | None:
    """Of the local frame of a VehicleLocalPosition; None while PX4 has none."""
    if not (message.xy_global and message.z_global):
        return None
    return Origin(float(message.ref_lat), float(message.ref_lon), float(message.ref_alt))


def odometry_from_fix(kind: Any, fix: Fix, decision: Decision, origin: Origin, attitude: Quaternion) -> Any:
    """VehicleOdometry that gives PX4 the decision's heading. attitude: PX4's own, ENU from FLU, for roll and pitch.

    It has the position too: EKF2 takes the frame of a yaw from that, and one that is not NED for a frame of its own.
    """
    north_m, east_m = px4_local_m(fix.lat_deg, fix.lon_deg, origin)
    message = kind(timestamp=0, timestamp_sample=round(fix.stamp_s * 1e6))
    message.pose_frame, message.velocity_frame = kind.POSE_FRAME_NED, kind.VELOCITY_FRAME_UNKNOWN
    message.position = [north_m, east_m, origin.amsl_m - fix.altitude_m]
    message.position_variance = [float(fix.covariance_enu_m2[axis, axis]) for axis in (1, 0, 2)]
    message.q = list(ned_from_frd_quaternion(*quaternion_with_heading(attitude, decision.heading_deg)))
    yaw_variance = math.radians(decision.sigma_heading_deg) ** 2
    message.orientation_variance = [UNKNOWN_VARIANCE, UNKNOWN_VARIANCE, yaw_variance]
    message.velocity = message.angular_velocity = message.velocity_variance = [math.nan] * 3
    message.reset_counter, message.quality = decision.reset_counter, 100
    return message
