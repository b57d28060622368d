# SPDX-License-Identifier: Apache-2.0
"""The gate before the autopilot: what passes, what does not and why, and when the counter moves."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geoloc_ros.core.autopilot.fix_gate import Decision, Fix, FixGate, FixStatus, Hold
from geoloc_ros.core.localization.state import State

NOW_S = 1000.0
COVARIANCE = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 25.0]])
GOOD = Fix(NOW_S - 0.1, True, 47.4, 8.5, 450.0, COVARIANCE)
TRACKING = FixStatus(State.TRACKING, True, 1)


class Stream:
    """A gate fed with a frame every 0.1 s that takes 0.05 s to its fix."""

    def __init__(self) -> None:
        self.gate = FixGate(0.3)
        self.now_s, self.frames = NOW_S, 0

    def frame(
        self, state: State = State.TRACKING, latency_s: float = 0.05, valid: bool = True, **changes: Any
    ) -> Decision:
        self.now_s += 0.1
        self.frames += 1
        status = FixStatus(state, valid and state == State.TRACKING, self.frames)
        self.gate.observe(status)
        fix = replace(GOOD, stamp_s=self.now_s - latency_s, valid=valid, **changes)
        return self.gate.decide(fix, status, self.now_s)


def test_a_good_fix_goes_on_with_its_deviations_and_age() -> None:
    gate = FixGate(0.3)
    gate.observe(TRACKING)
    decision = gate.decide(GOOD, TRACKING, NOW_S)
    assert decision.send
    assert decision.hold is None
    assert decision.reason == ""
    assert decision.reset_counter == 0
    assert decision.eph_m == pytest.approx(math.sqrt((7 + math.sqrt(5)) / 2))  # larger root of λ² - 7λ + 11
    assert decision.epv_m == 5.0
    assert decision.latency_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "hold"),
    [
        ({"valid": False}, Hold.NO_FIX),
        ({"lat_deg": math.nan}, Hold.NOT_FINITE),
        ({"lon_deg": math.inf}, Hold.NOT_FINITE),
        ({"altitude_m": math.nan}, Hold.NOT_FINITE),
        ({"lat_deg": 91.0}, Hold.NOT_FINITE),
        ({"covariance_enu_m2": np.full((3, 3), math.nan)}, Hold.NOT_FINITE),
        ({"covariance_enu_m2": np.diag([4.0, 4.0, math.nan])}, Hold.NOT_FINITE),
        ({"covariance_enu_m2": np.zeros((3, 3))}, Hold.NOT_FINITE),
        ({"covariance_enu_m2": np.diag([4.0, -4.0, 1.0]) * -1}, Hold.NOT_FINITE),
        ({"stamp_s": math.nan}, Hold.NOT_FINITE),
        ({"stamp_s": NOW_S - 0.301}, Hold.TOO_OLD),
        ({"stamp_s": NOW_S + 0.201}, Hold.IN_FUTURE),
    ],
)
def test_what_never_goes_on(changes: dict[str, Any], hold: Hold) -> None:
    gate = FixGate(0.3)
    gate.observe(TRACKING)
    decision = gate.decide(replace(GOOD, **changes), TRACKING, NOW_S)
    assert not decision.send
    assert decision.hold == hold
    assert decision.reason
    assert gate.totals.held == {hold: 1}
    assert gate.totals.sent == 0


@pytest.mark.parametrize(
    ("state", "hold"),
    [(State.LOST, Hold.LOST), (State.RELOCALIZING, Hold.RELOCALIZING), (State.UNINITIALIZED, Hold.UNINITIALIZED)],
)
def test_only_a_confirmed_track_goes_on(state: State, hold: Hold) -> None:
    """Even if a fix calls itself valid."""
    gate = FixGate(0.3)
    status = FixStatus(state, True, 1)
    gate.observe(status)
    assert gate.decide(GOOD, status, NOW_S).hold == hold


def test_a_fix_is_held_if_the_localizer_has_lost_the_track_since() -> None:
    gate = FixGate(0.3)
    gate.observe(TRACKING)
    gate.observe(FixStatus(State.LOST, False, 2))
    assert gate.decide(GOOD, TRACKING, NOW_S).hold == Hold.LOST


@pytest.mark.parametrize(
    ("limit_deg", "heading_deg", "sigma_deg", "residual_deg", "sent_deg"),
    [
        (0.0, 30.0, 0.5, 0.0, math.nan),  # off
        (3.0, 30.0, 3.0, -3.0, 30.0),
        (3.0, 30.0, 3.1, 0.0, math.nan),
        (3.0, 30.0, 1.0, -3.1, math.nan),  # the autopilot has just turned to an earlier one
        (3.0, 30.0, 1.0, math.nan, math.nan),  # a frame that was not aligned
        (3.0, 30.0, 0.0, 0.0, math.nan),  # as in a status that knows nothing of headings
        (3.0, 30.0, math.nan, 0.0, math.nan),
        (3.0, math.nan, 1.0, 0.0, math.nan),
    ],
)
def test_a_heading_goes_with_a_fix_if_it_is_sure_enough(
    limit_deg: float, heading_deg: float, sigma_deg: float, residual_deg: float, sent_deg: float
) -> None:
    gate = FixGate(0.3, limit_deg)
    status = FixStatus(State.TRACKING, True, 1, heading_deg, sigma_deg, residual_deg)
    gate.observe(status)
    decision = gate.decide(GOOD, status, NOW_S)
    assert decision.send
    assert decision.heading_deg == pytest.approx(sent_deg, nan_ok=True)
    assert math.isnan(decision.sigma_heading_deg) == math.isnan(sent_deg)


def test_no_heading_without_a_confirmed_track() -> None:
    gate = FixGate(0.3, 3.0)
    status = FixStatus(State.RELOCALIZING, True, 1, 30.0, 1.0, 0.0)
    gate.observe(status)
    decision = gate.decide(GOOD, status, NOW_S)
    assert not decision.send
    assert math.isnan(decision.heading_deg)


def test_each_stamp_once_and_in_order() -> None:
    stream = Stream()
    assert stream.frame().send
    assert stream.frame(latency_s=0.15).hold == Hold.TWICE  # the stamp of the first one
    assert stream.frame(latency_s=0.26).hold == Hold.OUT_OF_ORDER
    assert stream.frame().send
    assert stream.gate.totals.sent == 2
    assert stream.gate.totals.oldest_s == pytest.approx(0.05)


def test_a_stamp_from_the_future_does_not_silence_those_that_follow() -> None:
    stream = Stream()
    assert stream.frame(latency_s=-100.0).hold == Hold.IN_FUTURE
    assert stream.frame().send


def test_what_else_blocks_is_told() -> None:
    gate = FixGate(0.3)
    gate.observe(TRACKING)
    decision = gate.decide(GOOD, TRACKING, NOW_S, blocked="PX4 is silent")
    assert (decision.hold, decision.reason) == (Hold.BLOCKED, "PX4 is silent")


def test_the_counter_moves_with_the_first_fix_after_a_relocalization_only() -> None:
    stream = Stream()
    script = [
        (State.UNINITIALIZED, True, None),
        (State.RELOCALIZING, True, None),
        (State.TRACKING, True, 0),  # the first track is no relocalization
        (State.TRACKING, False, None),  # a refused frame is none either
        (State.TRACKING, True, 0),
        (State.LOST, True, None),
        (State.RELOCALIZING, True, None),
        (State.LOST, True, None),
        (State.RELOCALIZING, True, None),
        (State.TRACKING, False, None),
        (State.TRACKING, True, 1),
        (State.TRACKING, True, 1),
        (State.RELOCALIZING, True, None),
        (State.TRACKING, True, 2),
    ]
    for state, valid, counter in script:
        decision = stream.frame(state, valid=valid)
        assert decision.send == (counter is not None)
        assert counter in (None, decision.reset_counter)
    assert stream.gate.totals.resets == 2


def test_a_relocalization_counts_though_its_first_fixes_are_held() -> None:
    stream = Stream()
    stream.frame()
    stream.frame(State.LOST)
    assert not stream.frame(latency_s=0.5).send
    assert not stream.frame(altitude_m=math.nan).send
    assert stream.frame().reset_counter == 1


def test_a_localizer_started_anew_counts_as_relocalization() -> None:
    stream = Stream()
    for _ in range(3):
        stream.frame()
    stream.frames = 0
    assert stream.frame().reset_counter == 1
    assert stream.frame().reset_counter == 1


def test_the_counter_wraps_as_a_byte_does() -> None:
    stream = Stream()
    counters = []
    for _ in range(258):
        counters.append(stream.frame().reset_counter)
        stream.frame(State.LOST)
    assert counters[:3] == [0, 1, 2]
    assert counters[255:] == [255, 0, 1]


def test_a_clock_that_starts_anew_does_not_silence_the_bridge() -> None:
    stream = Stream()
    stream.frame()
    stream.now_s = 5.0
    stream.frame(State.UNINITIALIZED)
    decision = stream.frame()
    assert decision.send
    assert decision.reset_counter == 1


def test_a_fix_that_grows_too_old_on_its_way_out_is_held_and_its_reset_kept() -> None:
    stream = Stream()
    stream.frame()
    stream.frame(State.LOST)
    late = stream.frame()
    fix = replace(GOOD, stamp_s=stream.now_s - 0.05)
    assert not stream.gate.hold_if_late(fix, stream.now_s + 0.2)
    assert stream.gate.hold_if_late(fix, stream.now_s + 0.3)
    assert (stream.gate.totals.sent, stream.gate.totals.held[Hold.TOO_OLD]) == (1, 1)
    assert stream.frame().reset_counter == late.reset_counter == 1


@pytest.mark.parametrize("filter_gain", [0.05, 0.5])
@pytest.mark.parametrize(("autopilot_gain", "rest_deg"), [(0.05, 0.1), (0.5, 0.1), (1.0, 3.0)])
def test_an_autopilot_that_fuses_the_heading_settles_on_the_true_one(
    filter_gain: float, autopilot_gain: float, rest_deg: float
) -> None:
    """The localizer's offset lags behind the heading that it corrects, and no correction may feed on itself."""
    gate, reported_deg, offset_deg, sent = FixGate(0.3, 3.0), 20.0, 0.0, 0
    for number in range(1, 1001):
        now_s = NOW_S + 0.1 * number
        residual_deg = 30.0 - reported_deg - offset_deg  # the true heading is 30
        status = FixStatus(State.TRACKING, True, number, reported_deg + offset_deg, 1.0, residual_deg)
        gate.observe(status)
        decision = gate.decide(replace(GOOD, stamp_s=now_s - 0.1), status, now_s)
        offset_deg += filter_gain * residual_deg
        if math.isfinite(decision.heading_deg):
            sent += 1
            reported_deg += autopilot_gain * (decision.heading_deg - reported_deg)
            assert abs(decision.heading_deg - 30.0) <= 3.0
    assert sent > 500
    assert reported_deg == pytest.approx(30.0, abs=rest_deg)


M_PER_DEG = 111_320.0


def flown(
    wrong_s: tuple[float, float], wrong_m: float = 20.0, seconds: float = 40.0, has_velocity: bool = True
) -> list[tuple[float, bool, Decision]]:
    """Fixes, 10 times a second, of a vehicle that flies north at 8 m/s; those within wrong_s lie so far east of it.

    (time, whether it is wrong, decision) of each. Its velocity is off by 0.3 m/s, each fix by 1 m.
    """
    gate, noise, found = FixGate(0.3), np.random.default_rng(4), []
    for frame in range(1, round(seconds * 10)):
        time_s = 0.1 * frame
        east_m, north_m = noise.normal((0.0, 8.0 * time_s), 1.0)
        wrong = wrong_s[0] <= time_s < wrong_s[1]
        east_m += wrong_m * wrong
        place = 47.0 + north_m / M_PER_DEG, 8.0 + east_m / M_PER_DEG / math.cos(math.radians(47.0))
        if has_velocity:
            gate.jumps.motion.add(NOW_S + time_s, 0.3, 8.0)
        status = FixStatus(State.TRACKING, True, frame)
        gate.observe(status)
        fix = Fix(NOW_S + time_s - 0.15, True, *place, 450.0, np.diag([4.0, 4.0, 9.0]))
        found.append((time_s, wrong, gate.decide(fix, status, NOW_S + time_s)))
    return found


@pytest.mark.parametrize("wrong_for_s", [0.3, 4.0, 10.0])
def test_a_wrong_fix_does_not_pass(wrong_for_s: float) -> None:
    """Not even one of the 10 s in which an autopilot would have followed them."""
    found = flown((5.0, 5.0 + wrong_for_s), seconds=20.0)
    assert {d.hold for _, wrong, d in found if wrong} == {Hold.JUMP}
    right = [d.send for _, wrong, d in found if not wrong]
    assert sum(right) >= 0.99 * len(right)
    assert {d.reset_counter for *_, d in found} == {0}


def test_a_jump_is_sent_once_other_ground_has_confirmed_it_and_the_counter_tells() -> None:
    found = flown((5.0, math.inf), wrong_m=100.0)
    first_s, first = next((time_s, d) for time_s, wrong, d in found if wrong and d.send)
    assert first_s == pytest.approx(5.0 + 12.0, abs=0.2)
    assert first.reset_counter == 1
    assert all(d.send and d.reset_counter == 1 for time_s, _, d in found if time_s > first_s)


def test_the_same_view_confirms_nothing() -> None:
    """A vehicle that hovers sees the same wrong match for as long as it likes."""
    gate = FixGate(0.3)
    for frame in range(1, 300):
        now_s = NOW_S + 0.1 * frame
        gate.jumps.motion.add(now_s, 0.0, 0.0)
        status = FixStatus(State.TRACKING, True, frame)
        gate.observe(status)
        north_deg = 60.0 / M_PER_DEG * (frame > 20)
        decision = gate.decide(replace(GOOD, stamp_s=now_s - 0.1, lat_deg=47.4 + north_deg), status, now_s)
        assert decision.send == (frame <= 20)


def test_without_a_velocity_what_a_vehicle_can_fly_counts() -> None:
    found = flown((5.0, 9.0), wrong_m=200.0, seconds=12.0, has_velocity=False)
    assert not any(d.send for _, wrong, d in found if wrong)
    assert all(d.send for _, wrong, d in found if not wrong)


def test_a_relocalization_far_away_waits_too() -> None:
    stream = Stream()
    assert stream.frame().send
    stream.frame(State.LOST)
    assert stream.frame(lat_deg=47.41).hold == Hold.JUMP
    decision = stream.frame()
    assert decision.send
    assert decision.reset_counter == 1  # a track of its own
