# SPDX-License-Identifier: Apache-2.0
"""What every bridge shares: fix and status find each other by stamp, altitudes turn into those above the sea."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geoloc_ros.core.autopilot.fix_gate import Fix
from geoloc_ros.nodes.autopilot_fixes import StampPairs, altitude_amsl_m


def message(sec: int, nanosec: int = 0) -> Any:
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec)))


def test_halves_meet_in_any_order_and_once() -> None:
    met: list[tuple[Any, Any]] = []
    pairs: StampPairs[Any, Any] = StampPairs(lambda left, right: met.append((left, right)))
    lefts, rights = [message(i) for i in range(3)], [message(i) for i in range(3)]
    pairs.add_left(lefts[0])
    pairs.add_right(rights[1])
    pairs.add_left(lefts[2])
    assert met == []
    pairs.add_right(message(0, nanosec=1))
    assert met == []
    pairs.add_left(lefts[1])
    pairs.add_right(rights[2])
    pairs.add_right(rights[0])
    assert met == [(lefts[1], rights[1]), (lefts[2], rights[2]), (lefts[0], rights[0])]
    pairs.add_right(rights[0])
    assert len(met) == 3


def test_the_first_of_one_stamp_counts() -> None:
    met: list[tuple[Any, Any]] = []
    pairs: StampPairs[Any, Any] = StampPairs(lambda left, right: met.append((left, right)))
    first, second, right = message(1), message(1), message(1)
    pairs.add_left(first)
    pairs.add_left(second)
    pairs.add_right(right)
    assert met == [(first, right)]


def test_halves_that_stay_alone_are_forgotten() -> None:
    met: list[int] = []
    pairs: StampPairs[Any, Any] = StampPairs(lambda left, right: met.append(left.header.stamp.sec))
    for sec in range(1000):
        pairs.add_left(message(sec))
    for sec in (*range(999, 983, -1), 983):
        pairs.add_right(message(sec))
    assert met == list(range(999, 983, -1))


@pytest.mark.parametrize(
    ("lat_deg", "altitude_m", "expected_m"),
    [(46.8743190, 1500.0, 1543.575), (46.8743190, math.nan, 12.0), (math.nan, 1500.0, 12.0)],
)
def test_altitude_above_the_sea(lat_deg: float, altitude_m: float, expected_m: float) -> None:
    """The place is one of NGA's list of EGM96 undulations, -43.575 m."""
    fix = Fix(0.0, True, lat_deg, 102.4487290, altitude_m, np.eye(3))
    assert altitude_amsl_m(fix, 12.0) == pytest.approx(expected_m, abs=0.1)
