# SPDX-License-Identifier: Apache-2.0
"""Stamps of live images: strays are refused, a clock that was set is followed."""

import pytest

from geoloc_ros.core.recording.stamp_gate import StampGate

NOW_S = 1.8e9


def passed(gate: StampGate, stamps: list[tuple[float, float]]) -> list[bool]:
    """Whether each of (stamp_s, now_s) counts."""
    return [not gate.is_late(stamp_s) and not gate.refusal(stamp_s, now_s) for stamp_s, now_s in stamps]


def flying(gate: StampGate, first_s: float = 1000.0) -> None:
    assert all(passed(gate, [(first_s + 0.1 * step, NOW_S + 0.1 * step) for step in range(10)]))


@pytest.mark.parametrize(("stray_s", "words"), [(0.0, "did not stamp"), (2000.9, "1000.00 s ahead"), (997.9, "behind")])
def test_one_stray_is_refused_and_the_next_image_counts(stray_s: float, words: str) -> None:
    gate = StampGate()
    flying(gate)
    for step in range(5):  # a driver that does it again and again
        assert words.split()[-1] in gate.refusal(stray_s + 0.2 * step * (stray_s > 0), NOW_S + 1.0 + 0.2 * step)
        assert passed(gate, [(1001.0 + 0.2 * step, NOW_S + 1.1 + 0.2 * step)]) == [True]


@pytest.mark.parametrize("set_s", [500.0, 5000.0])
def test_a_clock_that_was_set_is_followed(set_s: float) -> None:
    gate = StampGate()
    flying(gate)
    later = [(set_s + 0.1 * step, NOW_S + 1.0 + 0.1 * step) for step in range(5)]
    assert passed(gate, later) == [False, False, True, True, True]


def test_strays_that_do_not_agree_are_no_clock() -> None:
    gate = StampGate()
    flying(gate)
    assert passed(gate, [(s, NOW_S + 1.0) for s in (5000.0, 200.0, 9000.0, 100.0, 90.0, 80.0)]) == [False] * 6


def test_pauses_and_disorder() -> None:
    gate = StampGate()
    flying(gate)
    assert passed(gate, [(1600.0, NOW_S + 600.0), (1599.5, NOW_S + 600.1), (1600.1, NOW_S + 600.2)]) == [
        True,
        False,
        True,
    ]


def test_a_simulation_begins_at_zero() -> None:
    assert passed(StampGate(), [(0.0, 0.0), (0.1, 0.1)]) == [True, True]
