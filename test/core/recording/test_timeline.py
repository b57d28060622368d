# SPDX-License-Identifier: Apache-2.0
"""Histories of sensor samples: interpolation against SciPy, ages, order, a clock that goes back."""

import threading
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from geoloc_ros.core.recording.timeline import Timeline, blend_numbers, blend_quaternions


def heights(*samples: tuple[float, float]) -> Timeline[float]:
    timeline: Timeline[float] = Timeline(blend_numbers)
    for stamp_s, height_m in samples:
        timeline.add(stamp_s, height_m)
    return timeline


def test_between_two_samples() -> None:
    timeline = heights((10.0, 100.0), (11.0, 110.0))
    assert timeline.at(10.3, 1.0) == pytest.approx(103.0)
    assert timeline.at(10.0, 1.0) == 100.0
    assert timeline.at(11.0, 1.0) == 110.0


def test_ages() -> None:
    timeline = heights((10.0, 100.0), (14.0, 140.0))
    assert timeline.at(10.4, 0.5) == 100.0  # the other neighbour is too far to blend with
    assert timeline.at(13.8, 0.5) == 140.0
    assert timeline.at(12.0, 0.5) is None
    assert timeline.at(9.8, 0.5) == 100.0
    assert timeline.at(14.6, 0.5) is None
    assert heights().at(1.0, 10.0) is None


def test_order_and_replacement() -> None:
    timeline = heights((11.0, 110.0), (10.0, 100.0), (10.5, 1.0), (10.5, 105.0))
    assert len(timeline) == 3
    assert timeline.at(10.5, 1.0) == 105.0
    assert timeline.newest_s() == 11.0


def test_span_and_clock_going_back() -> None:
    timeline = heights(*((float(stamp), 1.0) for stamp in range(100)))
    assert len(timeline) == 6  # five seconds, both ends
    timeline.add(20.0, 2.0)
    assert (len(timeline), timeline.newest_s()) == (1, 20.0)
    timeline.clear()
    assert timeline.newest_s() is None


def test_waits_for_the_moment_of_a_frame() -> None:
    timeline = heights((10.0, 100.0))
    threading.Timer(0.1, timeline.add, (11.0, 110.0)).start()
    start = time.monotonic()
    timeline.wait_for(10.5, 5.0)
    assert timeline.at(10.5, 1.0) == pytest.approx(105.0)
    assert time.monotonic() - start < 4.0
    timeline.wait_for(12.0, 0.05)  # gives up
    assert timeline.at(12.0, 0.5) is None


def test_attitudes_agree_with_scipy() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        pair = Rotation.random(2, rng=rng)
        share = rng.uniform()
        a, b = (tuple(q * sign) for q, sign in zip(pair.as_quat(), rng.choice([-1, 1], 2), strict=True))
        ours = Rotation.from_quat(blend_quaternions(a, b, share))
        theirs = Slerp([0.0, 1.0], pair)(share)
        assert (ours.inv() * theirs).magnitude() < 1e-7


def test_attitude_at_a_sample_is_untouched() -> None:
    a, b = (0.1, 0.2, 0.3, 0.9), (0.5, 0.5, 0.5, 0.5)
    assert blend_quaternions(a, b, 0.0) == a
    assert blend_quaternions(a, b, 1.0) == b
    assert blend_quaternions(b, b, 0.4) == pytest.approx(b)
