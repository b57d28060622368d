# SPDX-License-Identifier: Apache-2.0
"""Odometry and its transform, against SciPy."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time
from scipy.spatial.transform import Rotation

from geoloc_models.errors import GeolocError
from geoloc_ros.core.localization.body_pose import BodyPose
from geoloc_ros.messages.odometry import odometry_from_filter, pose_from_filter, transform_from_odom
from geoloc_ros.messages.reading import motion_from_odometry, rotation_from_odom

STAMP = Time(sec=1455008967, nanosec=200000123)


def test_odometry_turns_velocity_into_the_body() -> None:
    """Flying north-east with the nose north-east is flying forward."""
    rotation = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    covariance = np.diag([1.0, 2.0, 0.3, 0.3])
    message = odometry_from_filter((10.0, 20.0, 120.0), (3.0, 3.0), covariance, rotation, STAMP, ("map", "base_link"))
    twist = message.twist.twist.linear
    np.testing.assert_allclose([twist.x, twist.y, twist.z], [math.sqrt(18), 0.0, 0.0], atol=1e-9)
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    assert [message.pose.covariance[i] for i in (0, 7)] == [1.0, 2.0]
    np.testing.assert_allclose([message.twist.covariance[i] for i in (0, 7)], [0.3, 0.3])
    assert [message.pose.covariance[i] for i in (14, 21, 28, 35)] == [1e6] * 4
    known = odometry_from_filter(
        (10.0, 20.0, 120.0), (3.0, 3.0), covariance, rotation, STAMP, ("map", "base_link"), 0.01
    )
    assert [known.pose.covariance[i] for i in (14, 21, 28, 35)] == [1e6, 1e6, 1e6, 0.01]


def test_pose_has_its_covariance_in_the_order_of_ros() -> None:
    turn = Rotation.from_euler("ZYX", [30, 10, -5], degrees=True)
    spread = np.array([[0.1, 0.01, 0.0], [0.01, 0.2, 0.0], [0.0, 0.0, 0.3]])
    body = BodyPose(120.0, 25.0, turn.as_matrix(), spread, 60.0)
    horizontal = np.array([[4.0, 1.0], [1.0, 9.0]])
    message = pose_from_filter((10.0, 20.0, 120.0), horizontal, body, STAMP, "map")
    assert (message.header.frame_id, message.header.stamp) == ("map", STAMP)
    position, q = message.pose.pose.position, message.pose.pose.orientation
    assert (position.x, position.y, position.z) == (10.0, 20.0, 120.0)
    assert (turn.inv() * Rotation.from_quat([q.x, q.y, q.z, q.w])).magnitude() < 1e-9
    covariance = np.array(message.pose.covariance).reshape(6, 6)
    expected = np.zeros((6, 6))
    expected[:2, :2], expected[2, 2], expected[3:, 3:] = horizontal, 25.0, spread
    np.testing.assert_array_equal(covariance, expected)


def test_odometry_comes_back_as_motion() -> None:
    rotation = Rotation.from_euler("ZYX", [30, 10, -5], degrees=True).as_matrix()
    message = odometry_from_filter((0.0, 0.0, 0.0), (3.0, -4.0), np.eye(4), rotation, STAMP, ("odom", "base_link"))
    motion = motion_from_odometry(message)
    np.testing.assert_allclose(motion.velocity_enu_m_s, [3.0, -4.0, 0.0], atol=1e-9)
    assert motion.heading_deg == pytest.approx(60.0)  # yaw counts from east anticlockwise, heading from north
    message.twist.twist.linear.x = math.nan
    with pytest.raises(GeolocError, match="not finite"):
        motion_from_odometry(message)


def test_velocity_of_odometry_that_knows_no_north_is_turned_by_the_imu() -> None:
    in_odom = Rotation.from_euler("ZYX", [40, 3, -2], degrees=True)
    in_map = Rotation.from_euler("ZYX", [130, 3, -2], degrees=True)
    odometry = odometry_from_filter(
        (0.0, 0.0, 0.0), (3.0, -4.0), np.eye(4), in_odom.as_matrix(), STAMP, ("odom", "base_link")
    )
    motion = motion_from_odometry(odometry)
    np.testing.assert_array_equal(rotation_from_odom(motion, None), np.eye(3))
    # A quarter turn to the left: east becomes north, south becomes east.
    turned = rotation_from_odom(motion, tuple(in_map.as_quat())) @ motion.velocity_enu_m_s
    assert turned[:2] == pytest.approx((4.0, 3.0))


def test_map_to_odom_puts_the_body_where_the_filter_has_it() -> None:
    """The odometry's pose of the body, taken through map→odom, is the filtered place with the IMU's attitude."""
    in_odom = Rotation.from_euler("ZYX", [40, 3, -2], degrees=True).as_matrix()
    in_map = Rotation.from_euler("ZYX", [65, 4, 1], degrees=True).as_matrix()
    odometry = odometry_from_filter((7.0, -3.0, 80.0), (0.0, 0.0), np.eye(4), in_odom, STAMP, ("odom", "base_link"))
    motion = motion_from_odometry(odometry)
    message = transform_from_odom((120.0, 250.0, 110.0), in_map, motion, STAMP, "map")
    assert (message.header.frame_id, message.child_frame_id) == ("map", "odom")
    q, t = message.transform.rotation, message.transform.translation
    rotation = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    np.testing.assert_allclose(rotation @ [7.0, -3.0, 80.0] + [t.x, t.y, t.z], [120.0, 250.0, 110.0], atol=1e-9)
    np.testing.assert_allclose(rotation @ in_odom, in_map, atol=1e-9)
