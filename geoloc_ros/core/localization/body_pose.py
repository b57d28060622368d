# SPDX-License-Identifier: Apache-2.0
"""The vehicle's height and attitude as reported, corrected by what the track has learned about them."""

import math
from dataclasses import dataclass

import numpy as np

from geoloc_ros.core.geometry.rotations import (
    FLU_FROM_OPTICAL_DOWN,
    heading_rad,
    nadir_rotation,
    rotation_from_quaternion,
    turn_clockwise,
)
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.recording.frame import Frame

UNKNOWN_VARIANCE = 1e6
"""Variance of what is not known, in the square of its unit."""


@dataclass(frozen=True)
class BodyPose:
    """Height and attitude of the FLU body in ENU.

    height_m, height_variance_m2: above ground; 0 and UNKNOWN_VARIANCE without a height. rotation_enu_from_body: (3, 3).
    rotation_covariance_rad2: (3, 3) of small rotations about east, north and up. heading_deg: of the nose, clockwise
    from north, 0 to 360; NaN without an attitude or a learned offset.
    """

    height_m: float
    height_variance_m2: float
    rotation_enu_from_body: np.ndarray
    rotation_covariance_rad2: np.ndarray
    heading_deg: float


def body_pose(
    frame: Frame,
    attitude: tuple[float, float, float, float] | None,
    bias: PoseBias | None,
    sigma_attitude_rad: float,
    sigma_height_m: float,
) -> BodyPose:
    """The pose at a frame. attitude: quaternion (x, y, z, w), ENU from FLU body.

    sigma_attitude_rad: one standard deviation of the reported roll and pitch; sigma_height_m: of the reported height,
    used without `bias`. What is set not to be learned has a variance of 0 in the bias and counts as without. Without an
    attitude the body counts as level with the frame's heading, and its rotation as unknown.
    """
    turn, scale, height_variance_m2 = np.eye(3), 1.0, sigma_height_m**2
    if bias is not None:
        turn, scale = turn_clockwise(bias.heading_rad), math.exp(bias.log_height_scale)
        if bias.covariance[1, 1] > 0:
            height_variance_m2 = (frame.height_m * scale) ** 2 * float(bias.covariance[1, 1])
    height_m = frame.height_m * scale
    if not math.isfinite(height_m):
        height_m, height_variance_m2 = 0.0, UNKNOWN_VARIANCE
    if attitude is None:
        rotation = turn @ nadir_rotation(frame.heading_deg) @ FLU_FROM_OPTICAL_DOWN.T
        return BodyPose(height_m, height_variance_m2, rotation, np.eye(3) * UNKNOWN_VARIANCE, math.nan)
    rotation = turn @ rotation_from_quaternion(*attitude)
    covariance = np.diag([sigma_attitude_rad**2, sigma_attitude_rad**2, UNKNOWN_VARIANCE])
    heading_deg = math.nan
    if bias is not None:
        heading_deg = math.degrees(heading_rad(rotation)) % 360.0
        if bias.covariance[0, 0] > 0:
            covariance[2, 2] = bias.covariance[0, 0]
        if frame.rotation_enu_from_optical is not None:
            tilt = (turn @ frame.rotation_enu_from_optical)[:2, :2]
            covariance[:2, :2] += tilt @ bias.covariance[2:, 2:] @ tilt.T
    return BodyPose(height_m, height_variance_m2, rotation, covariance, heading_deg)
