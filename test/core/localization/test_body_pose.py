# SPDX-License-Identifier: Apache-2.0
"""The reported height and attitude with the learned biases applied, against SciPy."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import rotation_enu_from_optical
from geoloc_ros.core.localization.body_pose import UNKNOWN_VARIANCE, BodyPose, body_pose
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.recording.frame import Frame

CAMERA = CameraModel(8, 8, np.array([[8.0, 0.0, 3.5], [0.0, 8.0, 3.5], [0.0, 0.0, 1.0]]))
BIAS = PoseBias(math.radians(10.0), math.log(1.2), (0.01, -0.02), np.diag([0.03, 0.02, 0.05, 0.01]) ** 2)
# Nose 60 degrees clockwise from north.
REPORTED = Rotation.from_euler("ZYX", [30, 4, -3], degrees=True)


def posed(
    attitude: Rotation | None, bias: PoseBias | None, height_m: float = 100.0, heading_deg: float = 0.0
) -> BodyPose:
    quaternion = None if attitude is None else tuple(map(float, attitude.as_quat()))
    frame = Frame(
        image=None,
        stamp_s=0.0,
        rotation_enu_from_optical=None if quaternion is None else rotation_enu_from_optical(quaternion),
        height_m=height_m,
        camera=CAMERA,
        heading_deg=heading_deg,
    )
    return body_pose(frame, quaternion, bias, math.radians(1.0), 5.0)


def test_without_a_bias_it_is_what_was_reported() -> None:
    pose = posed(REPORTED, None)
    np.testing.assert_allclose(pose.rotation_enu_from_body, REPORTED.as_matrix(), atol=1e-12)
    assert (pose.height_m, pose.height_variance_m2) == (100.0, 25.0)
    sigma2 = math.radians(1.0) ** 2
    np.testing.assert_allclose(pose.rotation_covariance_rad2, np.diag([sigma2, sigma2, UNKNOWN_VARIANCE]))
    assert math.isnan(pose.heading_deg)


def test_the_learned_heading_turns_it_clockwise_and_keeps_the_tilt() -> None:
    pose = posed(REPORTED, BIAS)
    assert pose.heading_deg == pytest.approx(70.0)
    angles = Rotation.from_matrix(pose.rotation_enu_from_body).as_euler("ZYX", degrees=True)
    assert angles == pytest.approx([20.0, 4.0, -3.0])
    assert (pose.height_m, pose.height_variance_m2) == pytest.approx((120.0, (120.0 * 0.02) ** 2))


def test_covariance_of_the_rotation() -> None:
    """With the nose north the optical frame's x is east, and its y is south: boresight x tilts about east."""
    north = Rotation.from_euler("Z", 90 + 10, degrees=True)  # 10 degrees of offset make it north
    covariance = posed(north, BIAS).rotation_covariance_rad2
    sigma2 = math.radians(1.0) ** 2
    np.testing.assert_allclose(covariance, np.diag([sigma2 + 0.05**2, sigma2 + 0.01**2, 0.03**2]), atol=1e-12)
    # A nose to the east exchanges the two.
    covariance = posed(Rotation.from_euler("Z", 10, degrees=True), BIAS).rotation_covariance_rad2
    np.testing.assert_allclose(covariance, np.diag([sigma2 + 0.01**2, sigma2 + 0.05**2, 0.03**2]), atol=1e-12)


def test_what_is_not_learned_is_no_more_certain_than_without_a_bias() -> None:
    pose = posed(REPORTED, PoseBias(0.0, 0.0, (0.0, 0.0), np.zeros((4, 4))))
    assert pose.height_variance_m2 == 25.0
    assert pose.rotation_covariance_rad2[2, 2] == UNKNOWN_VARIANCE


@pytest.mark.parametrize("bias", [None, BIAS])
def test_without_an_attitude_only_the_heading_is_there_and_counts_as_unknown(bias: PoseBias | None) -> None:
    pose = posed(None, bias, heading_deg=60.0)
    yaw_deg = 30.0 if bias is None else 20.0
    expected = Rotation.from_euler("Z", yaw_deg, degrees=True).as_matrix()
    np.testing.assert_allclose(pose.rotation_enu_from_body, expected, atol=1e-12)
    np.testing.assert_array_equal(pose.rotation_covariance_rad2, np.eye(3) * UNKNOWN_VARIANCE)
    assert math.isnan(pose.heading_deg)


@pytest.mark.parametrize("bias", [None, BIAS])
def test_without_a_height(bias: PoseBias | None) -> None:
    pose = posed(REPORTED, bias, height_m=math.nan)
    assert (pose.height_m, pose.height_variance_m2) == (0.0, UNKNOWN_VARIANCE)
