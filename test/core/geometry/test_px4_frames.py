# SPDX-License-Identifier: Apache-2.0
"""PX4's conventions against SciPy's rotations and cases worked out by hand."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_ros.core.geometry.px4_frames import enu_from_flu_quaternion, height_above_ground_m

ENU_FROM_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
FRD_FROM_FLU = np.diag([1.0, -1.0, -1.0])


@pytest.mark.parametrize("seed", range(20))
def test_quaternion_is_that_of_the_matrices(seed: int) -> None:
    ned_from_frd = Rotation.random(random_state=seed)
    x, y, z, w = ned_from_frd.as_quat()
    found = Rotation.from_quat(enu_from_flu_quaternion(w, x, y, z))
    np.testing.assert_allclose(found.as_matrix(), ENU_FROM_NED @ ned_from_frd.as_matrix() @ FRD_FROM_FLU, atol=1e-12)


@pytest.mark.parametrize(("yaw_ned_deg", "nose_enu"), [(0, (0, 1, 0)), (90, (1, 0, 0)), (-90, (-1, 0, 0))])
def test_nose_points_where_px4_says(yaw_ned_deg: float, nose_enu: tuple[float, ...]) -> None:
    half = math.radians(yaw_ned_deg) / 2
    turn = Rotation.from_quat(enu_from_flu_quaternion(math.cos(half), 0.0, 0.0, math.sin(half)))
    np.testing.assert_allclose(turn.apply([1, 0, 0]), nose_enu, atol=1e-12)
    np.testing.assert_allclose(turn.apply([0, 0, 1]), (0, 0, 1), atol=1e-12)


def test_nan_stays_nan() -> None:
    assert any(map(math.isnan, enu_from_flu_quaternion(math.nan, 0.0, 0.0, 1.0)))


def test_height_is_the_measured_one_or_that_over_take_off() -> None:
    assert height_above_ground_m(True, -50.0, True, 43.5) == 43.5
    assert height_above_ground_m(True, -50.0, False, 43.5) == 50.0
    assert height_above_ground_m(True, -50.0, True, math.nan) == 50.0
    assert math.isnan(height_above_ground_m(False, -50.0, False, 43.5))
    assert math.isnan(height_above_ground_m(True, math.nan, False, 43.5))
