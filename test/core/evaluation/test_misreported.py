# SPDX-License-Identifier: Apache-2.0
"""A wrong compass and altimeter: what they do to a frame, and that the truth states what is lacking."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.drl.alignment import Alignment
from geoloc_models.engines.pose_search import posed
from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.answers import Answer
from geoloc_ros.core.evaluation.misreported import Misreported
from geoloc_ros.core.evaluation.scores import Run, summarize
from geoloc_ros.core.geometry.rectify import rectify
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.recording.motion import Displacement

CLOCKWISE_30 = np.array([[math.sqrt(3) / 2, 0.5, 0.0], [-0.5, math.sqrt(3) / 2, 0.0], [0.0, 0.0, 1.0]])
"""North goes to east by 30 degrees, written out."""


def test_heading_turns_attitude_and_velocity_clockwise_and_height_is_scaled(small_flight: Path) -> None:
    flight = Flight.open(small_flight)
    wrong = Misreported(flight, 30.0, 25.0)
    plain, seen = flight[3], next(wrong.frames(3, 4))
    assert plain.rotation_enu_from_optical is not None and seen.rotation_enu_from_optical is not None
    np.testing.assert_allclose(seen.rotation_enu_from_optical, CLOCKWISE_30 @ plain.rotation_enu_from_optical)
    assert seen.height_m == pytest.approx(1.25 * plain.height_m)
    assert seen.truth is not None and plain.truth is not None
    assert (seen.truth.heading_offset_deg, seen.truth.height_scale) == (-30.0, 0.8)
    assert replace(seen.truth, heading_offset_deg=0.0, height_scale=1.0) == plain.truth
    assert (seen.stamp_s, seen.image is None) == (plain.stamp_s, False)
    assert wrong.truth(3) == seen.truth
    assert (len(wrong), wrong.stamp_s(2), wrong.map_path) == (len(flight), flight.stamp_s(2), flight.map_path)
    assert [frame.stamp_s for frame in wrong] == [frame.stamp_s for frame in flight]


def test_velocity_turns_with_the_heading(small_flight: Path) -> None:
    step = Displacement(0.0, 1.0, np.array([0.0, 10.0]), np.eye(2))

    class Moving(Flight):
        def __getitem__(self, index: int) -> Frame:
            return replace(super().__getitem__(index), motion=(step,))

    flight = Flight.open(small_flight)
    flight.__class__ = Moving
    frame = next(Misreported(flight, 30.0, 0.0).frames(0, 1))
    np.testing.assert_allclose(frame.motion[0].enu_m, (5.0, 10.0 * math.sqrt(3) / 2))


@pytest.mark.parametrize(("heading_deg", "height_percent"), [(12.0, 0.0), (-9.0, 20.0), (0.0, -15.0)])
def test_the_truth_brings_the_misreported_view_into_register(
    small_flight: Path, heading_deg: float, height_percent: float
) -> None:
    flight = Flight.open(small_flight)
    plain, wrong = flight[5], next(Misreported(flight, heading_deg, height_percent).frames(5, 6))
    views = []
    for frame in (plain, wrong):
        assert frame.image is not None and frame.rotation_enu_from_optical is not None
        views.append(rectify(frame.image, frame.camera, frame.rotation_enu_from_optical, frame.height_m, 0.4, 80).image)
    assert wrong.truth is not None
    middle = np.s_[20:-20, 20:-20]

    def likeness(turn_deg: float, scale: float) -> float:
        return float(np.corrcoef(posed(views[1], turn_deg, scale)[middle].ravel(), views[0][middle].ravel())[0, 1])

    true = likeness(wrong.truth.heading_offset_deg, wrong.truth.height_scale)
    assert true > 0.9
    assert true > likeness(-wrong.truth.heading_offset_deg, 1 / wrong.truth.height_scale) + 0.05


@pytest.mark.parametrize(("heading_deg", "height_percent"), [(200.0, 0.0), (0.0, -100.0), (math.nan, 0.0)])
def test_impossible_errors_are_refused(small_flight: Path, heading_deg: float, height_percent: float) -> None:
    with pytest.raises(GeolocError, match="out of range"):
        Misreported(Flight.open(small_flight), heading_deg, height_percent)


def bias(heading_deg: float, scale: float) -> PoseBias:
    return PoseBias(math.radians(heading_deg), math.log(scale), (0.0, 0.0), np.eye(4))


def alignment(heading_deg: float, scale: float, support: float) -> Alignment:
    return Alignment((0.0, 0.0), math.radians(heading_deg), math.log(scale), (0.0, 0.0), np.eye(6), support, 5.0)


@pytest.mark.parametrize(
    ("learned", "aligned", "heading_deg", "scale_percent", "support"),
    [
        (bias(-8.0, 0.8), None, 2.0, 0.0, math.nan),
        (None, alignment(-11.5, 0.9, 0.7), 1.5, 12.5, 0.7),
        (bias(-8.0, 0.88), alignment(-3.0, 0.8, 0.4), 2.0, 10.0, 0.4),  # the bias has taken it in
        (bias(190.0, 0.8), None, 160.0, 0.0, math.nan),  # 190 is -170
        (None, None, math.nan, math.nan, math.nan),
    ],
)
def test_what_is_found_is_scored_against_what_was_put_in(
    learned: PoseBias | None, aligned: Alignment | None, heading_deg: float, scale_percent: float, support: float
) -> None:
    """True offset -10 degrees, true scale 0.8."""
    truth = Truth(47.0, 8.0, 100.0, heading_offset_deg=-10.0, height_scale=0.8)
    estimate = Estimate(
        1.0,
        State.TRACKING,
        True,
        "",
        47.0,
        8.0,
        np.eye(2),
        latencies_ms={"total": 1.0},
        bias=learned,
        alignment=aligned,
    )
    score = Answer.of(0, estimate, truth).score
    assert score.heading_error_deg == pytest.approx(heading_deg, nan_ok=True)
    assert score.height_scale_error_percent == pytest.approx(scale_percent, nan_ok=True, abs=1e-9)
    assert score.support == pytest.approx(support, nan_ok=True)
    unknown = Answer.of(0, estimate, Truth(47.0, 8.0, 100.0, math.nan, math.nan)).score
    assert math.isnan(unknown.heading_error_deg) and math.isnan(unknown.height_scale_error_percent)


def test_summary_has_medians_of_what_is_known() -> None:
    truth = Truth(47.0, 8.0, 100.0, heading_offset_deg=0.0, height_scale=1.0)
    found = [bias(2.0, 1.01), bias(-3.0, 0.95), None, bias(7.0, 1.02)]
    frames = [
        Answer.of(
            index,
            Estimate(
                float(index), State.TRACKING, True, "", 47.0, 8.0, np.eye(2), latencies_ms={"total": 1.0}, bias=one
            ),
            truth,
        ).score
        for index, one in enumerate(found)
    ]
    figures = summarize(Run("run", "tracking", "w", "cpu", frames))
    assert figures["heading_error_deg_median"] == pytest.approx(3.0)
    assert figures["height_scale_error_percent_median"] == pytest.approx(2.0)
    assert figures["support_median"] is None
