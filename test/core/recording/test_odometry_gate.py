# SPDX-License-Identifier: Apache-2.0
"""Odometry that lies is refused, and what is left adds up."""

import math

import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.odometry_gate import OdometryGate, OdometryLimits

EAST = np.array([10.0, 0.0, 0.0])


def gate() -> OdometryGate:
    return OdometryGate(OdometryLimits(40.0, 15.0, 0.5))


def fed(reported: np.ndarray = EAST, sigma_m_s: float = math.nan) -> OdometryGate:
    """Ten seconds of flight east at 10 Hz."""
    odometry = gate()
    for step in range(101):
        odometry.add(0.1 * step, EAST * 0.1 * step, reported, sigma_m_s)
    return odometry


@pytest.mark.parametrize("reported", [EAST, np.zeros(3)], ids=["twist", "poses alone"])
def test_samples_add_up_to_a_displacement(reported: np.ndarray) -> None:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = fed(reported).displacement(4.03, 8.06, turn)
    assert moved is not None
    np.testing.assert_allclose(moved.enu_m, [0.0, 40.3], atol=1e-6)
    assert (moved.start_s, moved.stop_s) == (4.03, 8.06)
    assert math.sqrt(moved.covariance_enu_m2[0, 0]) == pytest.approx(0.5 * math.sqrt(4.03 * 4.0))


def test_shared_errors_make_the_place_uncertain_and_not_the_speed() -> None:
    odometry = fed()
    steps = [odometry.displacement(0.1 * step, 0.1 * step + 0.1, np.eye(3)) for step in range(100)]
    known = [step for step in steps if step is not None]
    assert len(known) == 100
    variance = sum(step.covariance_enu_m2[0, 0] + step.drift_m2 for step in known)
    assert variance == pytest.approx(0.25 * 10.0 * 4.0)
    assert math.sqrt(known[0].covariance_enu_m2[0, 0]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("velocity", "sigma_m_s", "text"),
    [
        ((300.0, 0.0, 0.0), 0.1, "reports 300 m/s, the limit is track.max_speed_m_s, 40 m/s"),
        ((-25.0, 0.0, 0.0), 0.1, "beyond its noise; the limit is track.max_acceleration_m_s2, 15"),
        ((10.0, 0.0, 0.0), 1000.0, "standard deviation of 1e\\+03 m/s, the limit is track.max_speed_m_s, 40"),
        ((math.nan, 0.0, 0.0), 0.1, "not finite"),
    ],
)
def test_what_cannot_be_true_is_refused_and_counted(
    velocity: tuple[float, float, float], sigma_m_s: float, text: str
) -> None:
    odometry = fed()
    with pytest.raises(GeolocError, match=text):
        odometry.add(10.1, EAST * 10.1, np.array(velocity), sigma_m_s)
    assert odometry.refused == 1
    assert odometry.reason
    odometry.add(10.2, EAST * 10.2, EAST, math.nan)
    moved = odometry.displacement(9.0, 10.2, np.eye(3))
    assert moved is not None
    np.testing.assert_allclose(moved.enu_m, [12.0, 0.0], atol=1e-6)


def test_its_own_covariance_counts() -> None:
    moved = fed(sigma_m_s=2.0).displacement(0.0, 10.0, np.eye(3))
    assert moved is not None
    assert math.sqrt(moved.covariance_enu_m2[0, 0]) == pytest.approx(2.0 * math.sqrt(10.0 * 4.0))


def test_a_gap_is_not_bridged() -> None:
    odometry = fed()
    odometry.add(14.0, EAST * 14, EAST, math.nan)
    odometry.add(14.5, EAST * 14.5, EAST, math.nan)
    moved = odometry.displacement(5.0, 14.5, np.eye(3))
    assert moved is not None
    assert (moved.start_s, moved.stop_s, moved.enu_m[0]) == pytest.approx((14.0, 14.5, 5.0))
    assert odometry.displacement(11.5, 12.5, np.eye(3)) is None
