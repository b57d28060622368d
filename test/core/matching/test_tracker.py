# SPDX-License-Identifier: Apache-2.0
"""The filter against a batch least-squares solution, and whether its covariance is true."""

import numpy as np
import pytest

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.motion import Displacement

HOME = (47.4, 8.5)


def tracker(sigma_m: float = 10.0, sigma_speed: float = 10.0) -> Tracker:
    return Tracker(*HOME, sigma_m, sigma_speed, 0.0)


def test_equals_batch_least_squares() -> None:
    """Without acceleration noise the filter is the weighted least-squares line through all fixes and the prior."""
    rng = np.random.default_rng(0)
    frame, track = LocalEnu(*HOME), tracker()
    times = np.array([0.5, 1.2, 1.9, 3.0, 4.1])
    fixes = np.outer(times, [4.0, -2.0]) + np.array([5.0, 3.0]) + rng.normal(size=(5, 2))
    covariances = [np.diag(rng.uniform(1, 9, 2)) for _ in times]
    for time, fix, covariance in zip(times, fixes, covariances, strict=True):
        track.predict(time, 0.0)
        track.update(*frame.to_geodetic(*fix), covariance)
    # Unknowns: position and velocity at the end.
    end = times[-1]
    rows = [_step(-end) / np.array([10.0, 10, 10, 10])[:, None]]
    values = [np.zeros(4)]
    for time, fix, covariance in zip(times, fixes, covariances, strict=True):
        scale = 1 / np.sqrt(np.diag(covariance))
        rows.append(_step(time - end)[:2] * scale[:, None])
        values.append(fix * scale)
    matrix, target = np.vstack(rows), np.concatenate(values)
    expected = np.linalg.lstsq(matrix, target, rcond=None)[0]
    state = track.track()
    np.testing.assert_allclose(frame.to_enu(state.lat_deg, state.lon_deg), expected[:2], atol=1e-6)
    np.testing.assert_allclose(state.velocity_enu, expected[2:], atol=1e-6)
    np.testing.assert_allclose(state.covariance, np.linalg.inv(matrix.T @ matrix), atol=1e-6)


def _step(dt: float) -> np.ndarray:
    step = np.eye(4)
    step[0, 2] = step[1, 3] = dt
    return step


def test_uncertainty_grows_without_fixes_and_shrinks_with_them() -> None:
    track = tracker(sigma_m=5.0, sigma_speed=2.0)
    track.predict(10.0, 1.5)
    alone = track.sigma_m
    assert alone > np.hypot(5.0, 20.0)
    track.update(*HOME, np.eye(2) * 4.0)
    assert track.sigma_m < 2.0


def test_normalised_errors_follow_chi_squared() -> None:
    """Simulated with the very noise it assumes, the filter's own covariance holds the truth as often as it says."""
    rng = np.random.default_rng(1)
    frame = LocalEnu(*HOME)
    scores = []
    for _ in range(120):
        position, velocity = rng.normal(size=2) * 10.0, rng.normal(size=2) * 10.0
        track = tracker()
        for step in range(1, 9):
            push = rng.normal(size=2) * 1.5
            position = position + velocity * 0.5 + push * 0.125
            velocity = velocity + push * 0.5
            track.predict(step * 0.5, 1.5)
            track.update(*frame.to_geodetic(*(position + rng.normal(size=2) * 3.0)), np.eye(2) * 9.0)
        error = position - np.array(frame.to_enu(*track.place))
        scores.append(error @ np.linalg.solve(track.track().covariance[:2, :2], error))
    assert np.mean(scores) == pytest.approx(2.0, abs=0.45)


def test_a_displacement_narrows_the_prediction() -> None:
    blind, aided = tracker(), tracker()
    for track in (blind, aided):
        track.predict(0.0, 1.5)
    blind.predict(2.0, 1.5)
    aided.advance(2.0, [Displacement(-1.0, 2.0, np.array([21.0, -9.0]), np.eye(2) * 0.1)], 1.5)
    assert aided.sigma_m < 0.6 * blind.sigma_m
    np.testing.assert_allclose(LocalEnu(*HOME).to_enu(*aided.place), (14.0, -6.0), atol=0.1)


def test_frame_follows_a_long_flight() -> None:
    track = tracker()
    far = LocalEnu(*HOME).to_geodetic(30_000.0, 5_000.0)
    track.predict(1.0, 1.5)
    track.update(*far, np.eye(2) * 0.01)
    np.testing.assert_allclose(track.place, far, atol=1e-3)
    before = track.place
    track.predict(1.0, 1.5)
    np.testing.assert_allclose(track.place, before, atol=1e-9)
