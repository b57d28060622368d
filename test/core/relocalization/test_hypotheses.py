# SPDX-License-Identifier: Apache-2.0
"""The filter of hypotheses: Bayes' rule to the last digit, look-alikes told apart, nothing accepted early."""

import math
from dataclasses import replace

import numpy as np
import pytest

from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame, with_heading
from geoloc_ros.core.recording.motion import Displacement
from geoloc_ros.core.relocalization.hypotheses import Hypothesis, HypothesisFilter, Sighting

HOME = LocalEnu(58.4, 26.7)
VIEW_M = 100.0
CAMERA = CameraModel(320, 240, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))
PICTURE = np.zeros((8, 8, 3), np.uint8)
VALUES = {
    "search.accept_odds": 1000.0,
    "search.accept_frames": 3,
    "search.max_evidence": 10.0,
    "search.look_alike": 0.0,
    "search.new_ground": 0.25,
    "gate.min_support": 0.25,
}
SETTINGS = LocalizerSettings.of(VALUES)


def match(east_m: float, north_m: float, sharp: bool = True) -> Match:
    """The network's answer that the vehicle is at a place about HOME."""
    logits = np.zeros((21, 21), np.float32)
    logits[10, 10] = 12.0 if sharp else 0.0
    place = HOME.to_geodetic(east_m, north_m)
    crop = MapCrop(PICTURE, *place, 80.0, 10.0, 1.0, CropStatus.OK, "")
    heatmap = heatmap_from_logits(logits, 4.0)
    return Match(*place, np.eye(2) * 4.0, heatmap, heatmap.peak, crop)


def named(east_m: float, evidence: float) -> Sighting:
    return Sighting(match(east_m, 0.0), evidence, 0.0, 0.5, None)


def again(hypothesis: Hypothesis, east_m: float, evidence: float) -> Sighting:
    return Sighting(match(east_m, 0.0), evidence, 0.0, 0.5, hypothesis)


def frame(stamp_s: float, velocity: tuple[float, float] | None = None) -> Frame:
    motion = ()
    if velocity is not None:
        motion = (Displacement(stamp_s - 1.0, stamp_s, np.array(velocity), np.eye(2) * 0.25),)
    return Frame(PICTURE, stamp_s, nadir_rotation(), 100.0, CAMERA, motion=motion)


def test_odds_are_bayes_rule() -> None:
    """Against probabilities multiplied one by one: one place in 200, then frames with new ground in full."""
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 3.0), named(400.0, 1.0)], 0.0, VIEW_M, 200.0)
    odds = [1 / 200 * math.exp(3.0), 1 / 200 * math.exp(1.0)]
    assert [h.log_odds for h in search.hypotheses] == pytest.approx(np.log(odds))
    for step in (1, 2):
        search.predict(frame(2.0 * step, (20.0, 0.0)))
        first, second = search.hypotheses
        search.weigh(
            [again(first, 40.0 * step, 2.0), again(second, 400.0 + 40.0 * step, 0.5)], 2.0 * step, VIEW_M, 200.0
        )
        odds = [odds[0] * math.exp(2.0), odds[1] * math.exp(0.5)]
    assert [h.log_odds for h in search.hypotheses] == pytest.approx(np.log(odds))
    assert search.margin() == pytest.approx(math.log(odds[0] / (1.0 + odds[1])))


def test_a_look_alike_that_does_not_move_as_the_vehicle_does_drops_out() -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 8.0), named(400.0, 9.0)], 0.0, VIEW_M, 100.0)
    accepted = None
    for step in range(1, 8):
        search.predict(frame(1.0 * step, (25.0, 0.0)))
        sightings = [
            # The look-alike's best place stays where it was, 25 m behind at first and then ever more.
            again(h, 25.0 * step if h.tracker.place[1] < HOME.to_geodetic(300.0, 0.0)[1] else 400.0, 6.0)
            for h in search.hypotheses
        ]
        search.weigh(sightings, 1.0 * step, VIEW_M, 100.0)
        accepted, _ = search.verdict()
        if accepted:
            break
    assert accepted is not None
    assert LocalEnu(*accepted.tracker.place).to_enu(*HOME.to_geodetic(25.0 * step, 0.0)) == pytest.approx(
        (0.0, 0.0), abs=3.0
    )
    assert search.hypotheses[0].frames == 1 + step


def test_after_a_gap_nothing_is_known_of_the_places_before() -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 9.0), named(400.0, 8.0)], 0.0, VIEW_M, 20.0)
    search.predict(frame(2.0))
    assert len(search.hypotheses) == 2
    search.predict(frame(60.0))
    assert search.hypotheses == []


@pytest.mark.parametrize("evidence", [30.0, 100.0])
def test_a_decisive_view_overrules_what_an_earlier_frame_named(evidence: float) -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(400.0, 20.0)], 0.0, VIEW_M, 20.0)
    search.predict(frame(2.0))
    alignment = Alignment((0.0, 0.0), 0.0, 0.0, (0.0, 0.0), np.eye(6), 0.9, evidence)
    sighting = replace(named(0.0, evidence), match=replace(match(0.0, 0.0), alignment=alignment, agreement=0.9))
    search.weigh([sighting], 2.0, VIEW_M, 20.0)
    accepted, reason = search.verdict()
    assert (accepted is not None) == (evidence > 48), reason
    assert len(search.hypotheses) == 2


def test_of_two_squares_that_show_one_place_the_better_sighting_counts() -> None:
    search = HypothesisFilter(SETTINGS)
    better = named(3.0, 90.0)
    search.weigh([named(0.0, 12.0), better], 0.0, VIEW_M, 20.0)
    assert [h.match for h in search.hypotheses] == [better.match]


def test_a_place_where_the_view_does_not_align_is_not_accepted() -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 9.0)], 0.0, VIEW_M, 100.0)
    for step, agreement in ((1, 0.8), (2, 0.2), (3, 0.8)):
        search.predict(frame(1.0 * step, (25.0, 0.0)))
        sighting = again(search.hypotheses[0], 25.0 * step, 9.0)
        search.weigh([replace(sighting, match=replace(sighting.match, agreement=agreement))], step, VIEW_M, 100.0)
        winner, reason = search.verdict()
        assert (winner is not None) == (step == 3)
        assert ("unaligned: 20% of the view agrees" in reason) == (step == 2)


def test_a_hypothesis_moves_by_the_heading_that_its_alignments_have_shown() -> None:
    search = HypothesisFilter(SETTINGS)
    bias = PoseBiasFilter(SETTINGS.pose)
    shown = Alignment((0.0, 0.0), math.radians(20.0), 0.0, (0.0, 0.0), np.eye(6) * 1e-6, 0.9, 90.0)
    bias.update(frame(0.0), shown, 0.5)
    found = named(0.0, 8.0)
    search.weigh([replace(found, match=replace(found.match, bias=bias))], 0.0, VIEW_M, 100.0)
    before = search.hypotheses[0].bias
    for step in range(1, 5):
        search.predict(frame(1.0 * step, (0.0, 10.0)))
    east, north = LocalEnu(*HOME.to_geodetic(0.0, 0.0)).to_enu(*search.hypotheses[0].tracker.place)
    assert math.degrees(math.atan2(east, north)) == pytest.approx(20.0, abs=1.0)
    assert before is bias is not search.hypotheses[0].bias


def test_evidence_that_any_look_alike_gives_counts_against() -> None:
    search = HypothesisFilter(LocalizerSettings.of(VALUES | {"search.look_alike": 4.0}))
    search.weigh([named(0.0, 9.0)], 0.0, VIEW_M, 100.0)
    before = search.hypotheses[0].log_odds
    for step, evidence in ((1, 3.0), (2, 9.5), (3, 30.0)):
        search.predict(frame(1.0 * step, (25.0, 0.0)))
        search.weigh([again(search.hypotheses[0], 25.0 * step, evidence)], 1.0 * step, VIEW_M, 100.0)
    assert search.hypotheses[0].log_odds - before == pytest.approx(-1.0 + 5.5 + 6.0, abs=0.02)


def test_two_equal_places_are_never_accepted() -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 9.0), named(400.0, 9.0)], 0.0, VIEW_M, 100.0)
    for step in range(1, 20):
        search.predict(frame(1.0 * step, (25.0, 0.0)))
        first, second = sorted(search.hypotheses, key=lambda h: h.tracker.place[1])
        search.weigh([again(first, 25.0 * step, 9.0), again(second, 400.0 + 25.0 * step, 9.0)], step, VIEW_M, 100.0)
        winner, reason = search.verdict()
        assert winner is None
    assert "the best of 2 places leads 1:1" in reason


def test_a_vehicle_at_rest_does_not_confirm_itself() -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 8.0)], 0.0, VIEW_M, 100.0)
    before = search.hypotheses[0].log_odds
    for step in range(1, 50):
        search.predict(frame(0.1 * step))
        search.weigh([again(search.hypotheses[0], 0.5 * (step % 2), 9.0)], 0.1 * step, VIEW_M, 100.0)
    assert search.hypotheses[0].frames == 50
    assert search.hypotheses[0].log_odds == before


@pytest.mark.parametrize(
    ("sharp", "evidence", "east_m"),
    [(True, -50.0, 20.0), (False, 9.0, 20.0), (True, 9.0, 300.0)],
    ids=["does not fit", "no peak", "off the track"],
)
def test_a_frame_that_does_not_confirm_never_helps(sharp: bool, evidence: float, east_m: float) -> None:
    search = HypothesisFilter(SETTINGS)
    search.weigh([named(0.0, 8.0)], 0.0, VIEW_M, 100.0)
    hypothesis = search.hypotheses[0]
    before = hypothesis.log_odds
    search.predict(frame(1.0, (20.0, 0.0)))
    search.weigh([Sighting(match(east_m, 0.0, sharp), evidence, 0.0, 0.5, hypothesis)], 1.0, VIEW_M, 100.0)
    assert hypothesis.log_odds == pytest.approx(before - (3.0 if evidence < 0 else 0.0))
    assert (hypothesis.match, hypothesis.frames) == (None, 1)
    assert search.verdict()[0] is None


def test_the_best_are_kept_and_one_place_once() -> None:
    search = HypothesisFilter(LocalizerSettings.of(VALUES | {"search.hypotheses": 3}))
    search.weigh([named(100.0 * n + (10.0 if n == 5 else 0.0), float(n)) for n in range(6)], 0.0, VIEW_M, 50.0)
    search.weigh([named(515.0, 9.0)], 0.5, VIEW_M, 50.0)  # where there is one already
    assert [round(h.log_odds + math.log(50.0), 6) for h in search.hypotheses] == [5.0, 4.0, 3.0]


@pytest.mark.parametrize("heading_deg", [-170.0, -35.0, 90.0])
def test_a_corrected_heading_turns_attitude_and_velocity_alike(heading_deg: float) -> None:
    seen = frame(0.0, (3.0, 4.0))
    right = with_heading(seen, heading_deg)
    assert right.rotation_enu_from_optical is not None
    np.testing.assert_allclose(right.rotation_enu_from_optical, nadir_rotation(heading_deg), atol=1e-12)
    assert math.hypot(*right.motion[0].enu_m) == pytest.approx(5.0)
    bearing_deg = math.degrees(math.atan2(3.0, 4.0)) + heading_deg
    np.testing.assert_allclose(
        right.motion[0].enu_m,
        5.0 * np.array([math.sin(math.radians(bearing_deg)), math.cos(math.radians(bearing_deg))]),
    )
    np.testing.assert_allclose(right.motion[0].turned(-heading_deg).enu_m, [3.0, 4.0])
