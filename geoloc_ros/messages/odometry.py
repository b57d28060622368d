# SPDX-License-Identifier: Apache-2.0
"""The filtered track as pose, as odometry and as the transform from map to odom."""

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry

from geoloc_ros.core.geometry.rotations import quaternion_from_rotation
from geoloc_ros.core.localization.body_pose import UNKNOWN_VARIANCE, BodyPose
from geoloc_ros.messages.reading import Motion
from geoloc_ros.messages.sensors import header


def transform_from_odom(
    position_enu_m: tuple[float, float, float],
    rotation_enu_from_body: np.ndarray,
    motion: Motion,
    stamp: Time,
    map_frame: str,
) -> TransformStamped:
    """map→odom (REP-105): where the odometry's frame lies in the map, if the body is at the filtered place."""
    message = TransformStamped(child_frame_id=motion.frame_id)
    message.header = header(stamp, map_frame)
    rotation = rotation_enu_from_body @ motion.rotation_odom_from_body.T
    shift, q = message.transform.translation, message.transform.rotation
    shift.x, shift.y, shift.z = (np.array(position_enu_m) - rotation @ motion.position_m).tolist()
    q.x, q.y, q.z, q.w = quaternion_from_rotation(rotation)
    return message


def pose_from_filter(
    position_enu_m: tuple[float, float, float],
    covariance_enu_m2: np.ndarray,
    body: BodyPose,
    stamp: Time,
    map_frame: str,
) -> PoseWithCovarianceStamped:
    """The filtered place with the body's height and attitude. covariance_enu_m2: (2, 2) of east and north."""
    message = PoseWithCovarianceStamped()
    message.header = header(stamp, map_frame)
    _set_pose(message.pose.pose, position_enu_m, body.rotation_enu_from_body)
    covariance = np.zeros((6, 6))
    covariance[:2, :2], covariance[2, 2] = covariance_enu_m2, body.height_variance_m2
    covariance[3:, 3:] = body.rotation_covariance_rad2
    message.pose.covariance = covariance.ravel().tolist()
    return message


def odometry_from_filter(
    position_enu_m: tuple[float, float, float],
    velocity_enu_mps: tuple[float, float],
    covariance: np.ndarray,
    rotation_enu_from_body: np.ndarray,
    stamp: Time,
    frames: tuple[str, str],
    yaw_variance_rad2: float = UNKNOWN_VARIANCE,
) -> Odometry:
    """The filtered state. covariance: (4, 4) of east, north, and their velocities; frames: (map, body).

    Odometry gives its twist in the body frame, so the velocity is turned by the attitude. What the filter does not
    estimate has a variance of 1e6.
    """
    message = Odometry(child_frame_id=frames[1])
    message.header = header(stamp, frames[0])
    _set_pose(message.pose.pose, position_enu_m, rotation_enu_from_body)
    rotation, twist = rotation_enu_from_body, message.twist.twist
    velocity = rotation.T @ np.array([*velocity_enu_mps, 0.0])
    twist.linear.x, twist.linear.y, twist.linear.z = velocity.tolist()
    pose_covariance, twist_covariance = np.eye(6) * UNKNOWN_VARIANCE, np.eye(6) * UNKNOWN_VARIANCE
    pose_covariance[:2, :2], pose_covariance[5, 5] = covariance[:2, :2], yaw_variance_rad2
    velocity_covariance = np.diag([0.0, 0.0, UNKNOWN_VARIANCE])
    velocity_covariance[:2, :2] = covariance[2:, 2:]
    twist_covariance[:3, :3] = rotation.T @ velocity_covariance @ rotation
    message.pose.covariance = pose_covariance.ravel().tolist()
    message.twist.covariance = twist_covariance.ravel().tolist()
    return message


def _set_pose(pose: Pose, position_m: tuple[float, float, float], rotation: np.ndarray) -> None:
    pose.position.x, pose.position.y, pose.position.z = (float(value) for value in position_m)
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_from_rotation(rotation)
