# SPDX-License-Identifier: Apache-2.0
"""A gap shows what it states, where it states, and its outcome is the track's."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textured_plane import CAMERA, seen

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.answers import Answer
from geoloc_ros.core.evaluation.gap import Gap, GapMap
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.matching.tracker import Track
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Truth

HOME = LocalEnu(47.0, 8.0)


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    """Eastwards, 10 m and 1 s a frame."""
    folder: Path = tmp_path_factory.mktemp("gap")
    frames = (
        replace(seen(10.0 * k, 0.0, float(k)), truth=Truth(*HOME.to_geodetic(10.0 * k, 0.0), 100.0)) for k in range(8)
    )
    write_flight(folder, CAMERA, frames)
    return Flight.open(folder)


@pytest.mark.parametrize("shown", ["blank", "noise", "elsewhere", "ground"])
def test_a_gap_shows_what_it_states(flight: Flight, flat_map: MapSource, shown: str) -> None:
    source = GapMap(flat_map)
    for index, (step, whole) in enumerate(zip(Gap(2, 4, shown).steps(flight, source, 0), flight, strict=True)):
        inside = 2 <= index <= 4
        assert source.closed == (inside and shown == "ground")
        assert source.crop(47.0, 8.0, 100.0, 32).coverage == (0.0 if source.closed else 1.0)
        assert step.frame.image is not None and whole.image is not None
        assert np.array_equal(step.frame.image, whole.image) == (not inside or shown == "ground")
        if inside and shown == "elsewhere":
            other = flight[index + 4 if index < 4 else index - 4].image
            np.testing.assert_array_equal(step.frame.image, other)
        if inside and shown == "blank":
            assert not step.frame.image.any()


@pytest.mark.parametrize(("first", "last"), [(0, 3), (4, 3), (2, 7)])
def test_an_impossible_gap_is_refused(flight: Flight, flat_map: MapSource, first: int, last: int) -> None:
    with pytest.raises(GeolocError, match="gap"):
        next(iter(Gap(first, last, "blank").steps(flight, GapMap(flat_map), 0)))


def test_the_outcome_is_the_error_at_the_end_and_the_time_to_the_next_fix(flight: Flight) -> None:
    answers = []
    for index in range(8):
        truth, valid = flight.truth(index), index < 2 or index > 5
        east_m, north_m = HOME.to_enu(truth.lat_deg, truth.lon_deg)
        place = HOME.to_geodetic(east_m, north_m + 1.5)
        estimate = Estimate(
            float(index), State.TRACKING, valid, "" if valid else "no map", *place,
            filtered=Track(*place, (10.0, 0.0), np.eye(4)), latencies_ms={"total": 1.0},
        )  # fmt: skip
        answers.append(Answer.of(index, estimate, truth))
    found = Gap(2, 4, "blank").outcome(answers)
    assert found["flown_m"] == pytest.approx(30.0, abs=0.1)
    assert found["error_m"] == pytest.approx(1.5, abs=0.01) and found["error_percent"] == pytest.approx(5.0, abs=0.1)
    assert (found["found_after_s"], found["found_after_frames"], found["false_fixes"]) == (1.0, 2, 0)
    lost = [replace(answer, score=replace(answer.score, valid=False)) for answer in answers]
    assert Gap(2, 4, "blank").outcome(lost)["found_after_s"] is None
    assert not math.isnan(found["error_percent"])
