# SPDX-License-Identifier: Apache-2.0
"""PX4's clock beside ours: in step, apart, restarted."""

import math

import pytest

from geoloc_ros.core.autopilot.px4_clock import IN_STEP_S, ClockWatch, px4_time_s


def test_time() -> None:
    assert px4_time_s(1_700_000_000_123_456) == pytest.approx(1_700_000_000.123456, abs=3e-7)


def test_clocks_in_step_differ_by_the_fastest_message() -> None:
    watch = ClockWatch()
    assert math.isnan(watch.offset_s)
    assert "nothing from PX4" in watch.problem(1.7e9)
    for number, latency_s in enumerate((0.9, 0.004, 0.3, 0.02)):
        sent_s = 1.7e9 + 0.5 * number
        watch.note(round(sent_s * 1e6), sent_s + latency_s)
    assert watch.offset_s == pytest.approx(0.004, abs=1e-5)
    assert watch.problem(1.7e9 + 2.0) == ""
    assert "nothing from PX4" in watch.problem(1.7e9 + 4.0)


@pytest.mark.parametrize("offset_s", [1.7e9, 0.65, -0.65])
def test_clocks_apart_are_reported_with_the_remedy(offset_s: float) -> None:
    watch = ClockWatch()
    for number in range(20):
        sent_s = 100.0 + 0.02 * number
        watch.note(round(sent_s * 1e6), sent_s + offset_s)
    assert watch.offset_s == pytest.approx(offset_s, abs=1e-5)
    problem = watch.problem(100.4 + offset_s)
    assert f"{offset_s:.3f} s" in problem
    assert "UXRCE_DDS_SYNCT" in problem


def test_a_reboot_of_px4_starts_the_comparison_anew() -> None:
    watch = ClockWatch()
    watch.note(100_000_000, 100.0)
    watch.note(3_000_000, 103.0)
    assert watch.offset_s == pytest.approx(100.0)


def test_stamps_that_fall_behind_between_two_comparisons_are_put_right() -> None:
    """As those of PX4's SIH behind the agent: 0.015 to 0.176 s behind, in a saw-tooth."""
    watch = ClockWatch()
    for tick in range(1500):
        sent_s = 1.7e9 + 0.02 * tick
        late_s = 0.015 + 0.014 * (0.02 * tick % 11.5)
        watch.note(round((sent_s - late_s) * 1e6), sent_s + 0.002)
        assert watch.problem(sent_s) == ""
        if tick > 100:
            assert watch.behind_s == pytest.approx(late_s, abs=IN_STEP_S)


def test_clocks_in_step_are_left_alone() -> None:
    watch = ClockWatch()
    assert watch.behind_s == 0.0
    for tick in range(200):
        watch.note(round((1.7e9 + 0.02 * tick) * 1e6), 1.7e9 + 0.02 * tick + 0.004)
    assert watch.behind_s == 0.0
