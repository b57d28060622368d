# SPDX-License-Identifier: Apache-2.0
"""Visual odometry against views of a textured plane that OpenCV's homographies render at known poses."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from textured_plane import HEIGHT_M, ground, seen

from geoloc_ros.core.geometry.rotations import nadir_rotation, rotation_from_vector, turn_clockwise
from geoloc_ros.core.odometry.visual_odometry import Increment, VisualOdometry, odometry_view
from geoloc_ros.core.recording.frame import Frame


def motions(*frames: Frame) -> list[Increment]:
    odometry = VisualOdometry()
    increments = [odometry.process(odometry_view(frame), frame.stamp_s) for frame in frames]
    assert increments[0].reason == "the first image"
    return increments[1:]


@pytest.mark.parametrize("step_m", [0.3, 4.0, 30.0])
def test_displacements_are_metric_at_any_step(step_m: float) -> None:
    """0.3 m are half a pixel; 30 m two fifths of the view."""
    d = step_m * np.array([math.sin(0.5), math.cos(0.5)])
    for k, found in enumerate(motions(*(seen(*(k * d), k / 10) for k in range(4)))):
        assert not found.reason
        assert (found.since_s, found.stamp_s) == (k / 10, (k + 1) / 10)
        np.testing.assert_allclose(found.displacement_enu_m, d, atol=0.05 + 0.005 * step_m)
        np.testing.assert_allclose(found.velocity_enu_m_s, found.displacement_enu_m / 0.1)


def test_attitude_and_height_are_taken_out_of_the_motion() -> None:
    tilted = nadir_rotation(40.0) @ rotation_from_vector(np.array([0.15, -0.1, 0.0]))
    (found,) = motions(seen(0, 0, 0.0), seen(12.0, -7.0, 1.0, tilted, 110.0))
    np.testing.assert_allclose(found.displacement_enu_m, [12.0, -7.0], atol=0.15)
    assert abs(found.turn_rad) < math.radians(0.2)
    assert abs(found.log_scale) < 0.004


def test_a_turn_that_the_heading_missed_and_a_climb_that_the_height_missed_are_measured() -> None:
    frame = seen(10.0, 5.0, 1.0, turn_clockwise(math.radians(8.0)) @ nadir_rotation(), 1.05 * HEIGHT_M)
    frame = replace(frame, rotation_enu_from_optical=nadir_rotation(), height_m=HEIGHT_M)
    odometry = VisualOdometry()
    odometry.process(odometry_view(seen(0, 0, 0.0)), 0.0)
    found = odometry.process(odometry_view(frame), 1.0, heading_is_reported=False)
    assert math.degrees(found.turn_rad) == pytest.approx(8.0, abs=0.3)
    assert found.log_scale == pytest.approx(math.log(1.05), abs=0.006)
    np.testing.assert_allclose(found.displacement_enu_m, [10.0, 5.0], atol=0.4)


def test_a_constant_tilt_of_the_mount_cancels() -> None:
    tilt = rotation_from_vector(np.radians([2.0, 2.0, 0.0]))
    frames = [seen(0, 6.0 * k, float(k), nadir_rotation() @ tilt) for k in range(6)]
    found = motions(*(replace(frame, rotation_enu_from_optical=nadir_rotation()) for frame in frames))
    total = sum(increment.displacement_enu_m for increment in found)
    np.testing.assert_allclose(total, [0.0, 30.0], atol=0.6)


def test_a_vehicle_at_rest_does_not_drift_and_its_covariance_holds() -> None:
    rng = np.random.default_rng(1)
    odometry, total = VisualOdometry(), np.zeros(2)
    for k in range(30):
        frame = seen(0.0, 0.0, k / 30)
        assert frame.image is not None
        noise = rng.normal(0, 4, frame.image.shape)
        shot = np.clip(frame.image + noise, 0, 255).astype(np.uint8)
        found = odometry.process(odometry_view(replace(frame, image=shot)), frame.stamp_s)
        if k:
            error2 = found.displacement_enu_m @ np.linalg.solve(found.covariance[:2, :2], found.displacement_enu_m)
            assert error2 < 25.0
            total += found.displacement_enu_m
    assert np.hypot(*total) < 0.05


def test_things_that_move_by_themselves_are_outliers() -> None:
    before, after = seen(0, 0, 0.0), seen(8.0, 0.0, 1.0)
    assert before.image is not None and after.image is not None
    after.image[60:130, 90:170] = before.image[60:130, 90:170]
    (found,) = motions(before, after)
    np.testing.assert_allclose(found.displacement_enu_m, [8.0, 0.0], atol=0.15)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("blank", "too little texture"),
        ("noise", "too little common ground"),
        ("elsewhere", "too little common ground"),
        ("blurred", "blurred"),
        ("late", "images too far apart"),
        ("twice", "the image is that of the frame before"),
    ],
)
def test_a_frame_without_visible_motion_is_refused_and_the_next_bridges_it(fault: str, reason: str) -> None:
    rng = np.random.default_rng(2)
    bad = seen(2.0, 0.0, 1.0)
    assert bad.image is not None
    if fault == "blank":
        bad = replace(bad, image=np.full_like(bad.image, 90))
    elif fault == "noise":
        bad = replace(bad, image=rng.integers(0, 256, bad.image.shape, dtype=np.uint8))
    elif fault == "elsewhere":
        bad = seen(2.0, 0.0, 1.0, image=ground(7))
    elif fault == "blurred":
        bad = replace(bad, image=cv2.blur(bad.image, (25, 25)))
    elif fault == "late":
        bad = seen(2.0, 0.0, 60.0)
    else:
        bad = seen(0.0, 0.0, 1.0)
    refused, good = motions(seen(0, 0, 0.0), bad, seen(4.0, 0.0, bad.stamp_s + 1.0))
    assert refused.reason.startswith(reason)
    assert np.isnan(refused.displacement_enu_m).all() and np.isnan(refused.covariance).all()
    assert not good.reason
    moved_m = 2.0 if fault == "late" else 4.0
    assert good.since_s == (bad.stamp_s if fault == "late" else 0.0)
    np.testing.assert_allclose(good.displacement_enu_m, [moved_m, 0.0], atol=0.1)
