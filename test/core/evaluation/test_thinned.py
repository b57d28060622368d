# SPDX-License-Identifier: Apache-2.0
"""A recording with fewer images keeps their stamps and truths."""

import math
from pathlib import Path

import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.thinned import Thinned
from geoloc_ros.core.recording.flight_folder import Flight


def test_every_third_frame_and_a_rate(small_flight: Path) -> None:
    flight = Flight.open(small_flight)
    third = Thinned(flight, every=3)
    kept = range(0, len(flight), 3)
    assert (len(third), third.map_path) == (len(kept), flight.map_path)
    assert [frame.stamp_s for frame in third.frames(1, 3)] == [flight.stamp_s(3), flight.stamp_s(6)]
    assert [third.stamp_s(index) for index in range(len(third))] == [flight.stamp_s(index) for index in kept]
    assert third.truth(2) == flight.truth(6)
    assert list(third.frames(2, 2)) == []
    step_s = flight.stamp_s(1) - flight.stamp_s(0)
    assert len(Thinned(flight, rate_hz=1 / step_s)) == len(flight)
    slow = Thinned(flight, rate_hz=1 / (4 * step_s))
    assert [slow.stamp_s(index) for index in range(2)] == [flight.stamp_s(0), flight.stamp_s(4)]
    assert len(list(slow)) == len(slow) == math.ceil(len(flight) / 4)


@pytest.mark.parametrize(("every", "rate_hz"), [(0, 1.0), (1, 0.0), (1, math.nan)])
def test_what_leaves_no_frames_is_refused(small_flight: Path, every: int, rate_hz: float) -> None:
    with pytest.raises(GeolocError, match="positive rate"):
        Thinned(Flight.open(small_flight), every, rate_hz)
