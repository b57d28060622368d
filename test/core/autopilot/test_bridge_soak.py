# SPDX-License-Identifier: Apache-2.0
"""The judge of the bridge finds each thing that must not happen, and nothing where all is well."""

import itertools
import math
from dataclasses import replace

import pytest

from geoloc_ros.core.autopilot.bridge_soak import Arrived, Kind, Planned, Published, judge, script
from geoloc_ros.core.localization.state import State

LIMIT_S = 0.3
GOOD = Planned(State.TRACKING, Kind.GOOD, 0.05)
LOST = Planned(State.LOST, Kind.GOOD, 0.05)


def flight(*planned: Planned) -> list[Published]:
    """Frames 0.1 s apart, said 0.05 s after their stamps."""
    return [Published(p, 1_000_000 + 100_000 * i, 1.05 + 0.1 * i) for i, p in enumerate(planned)]


def arrived(said: Published, counter: int = 0) -> Arrived:
    return Arrived(said.stamp_us, said.said_s + 0.01, (47.0, 8.0, 450.0, 2.0, 3.0), counter)


def test_all_is_well() -> None:
    said = flight(GOOD, GOOD, LOST, LOST, GOOD, LOST, GOOD)
    came = [arrived(said[i], counter) for i, counter in ((0, 255), (1, 255), (4, 0), (6, 1))]
    verdict = judge(said, came, LIMIT_S)
    assert verdict.violations == ()
    assert (verdict.arrived, verdict.bumps, verdict.relocalizations) == (4, 2, 2)
    assert verdict.oldest_s == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("planned", "words"),
    [
        (LOST, "sent while LOST"),
        (replace(LOST, state=State.RELOCALIZING), "sent while RELOCALIZING"),
        (replace(GOOD, kind=Kind.STALE), "sent while TRACKING, stale"),
        (replace(GOOD, kind=Kind.NAN_PLACE), "latitude not a number"),
    ],
)
def test_what_must_not_be_sent(planned: Planned, words: str) -> None:
    said = flight(GOOD, planned)
    verdict = judge(said, [arrived(said[0]), arrived(said[1], int(planned.state != State.TRACKING))], LIMIT_S)
    assert any(words in violation for violation in verdict.violations)


def test_a_sample_that_nobody_said() -> None:
    said = flight(GOOD)
    verdict = judge(said, [arrived(said[0]), replace(arrived(said[0]), stamp_us=7)], LIMIT_S)
    assert any("was never published" in violation for violation in verdict.violations)


def test_numbers_age_and_order() -> None:
    said = flight(GOOD, GOOD, GOOD)
    first, second, third = map(arrived, said)
    for spoiled, words in (
        ([first, replace(second, numbers=(math.nan,)), third], "not finite"),
        ([first, replace(second, sent_s=second.sent_s + 0.25), third], "s old, the limit is 0.3 s"),
        ([second, first, third], "not newer"),
        ([first, second, second, third], "not newer"),
    ):
        (violation,) = judge(said, spoiled, LIMIT_S).violations
        assert words in violation


@pytest.mark.parametrize("counters", [(0, 0), (0, 2), (1, 0)])
def test_a_counter_that_does_not_follow_the_relocalization(counters: tuple[int, int]) -> None:
    said = flight(GOOD, LOST, GOOD)
    came = [arrived(said[i], counter) for i, counter in zip((0, 2), counters, strict=True)]
    (violation,) = judge(said, came, LIMIT_S).violations
    assert "expected 1" in violation


def test_a_counter_that_moves_by_itself() -> None:
    said = flight(GOOD, GOOD)
    (violation,) = judge(said, [arrived(said[0], 3), arrived(said[1], 4)], LIMIT_S).violations
    assert "went up by 1" in violation


def test_good_fixes_must_arrive() -> None:
    said = flight(*[GOOD] * 40)
    assert judge(said, [arrived(s) for s in said[1:]], LIMIT_S).violations == ()
    (violation,) = judge(said, [arrived(s) for s in said[4:]], LIMIT_S).violations
    assert "36 of 40" in violation


def test_the_script_holds_every_state_and_fault() -> None:
    frames = list(itertools.islice(script(seed=1, fault_share=0.3, limit_s=LIMIT_S), 3000))
    assert {frame.state for frame in frames} == set(State)
    assert {frame.kind for frame in frames} == set(Kind)
    assert frames[0].state == State.UNINITIALIZED
    assert frames == list(itertools.islice(script(seed=1, fault_share=0.3, limit_s=LIMIT_S), 3000))
    clean = itertools.islice(script(seed=1, fault_share=0.0, limit_s=LIMIT_S), 3000)
    assert {frame.kind for frame in clean} == {Kind.GOOD}
