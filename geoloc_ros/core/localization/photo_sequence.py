# SPDX-License-Identifier: Apache-2.0
"""Photos of one flight: fixes that were not flown are refused, and the others show where the rest must be."""

import math
from collections.abc import Sequence

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.photo_locator import PhotoFix
from geoloc_ros.core.relocalization.gallery import Area

MAX_SPEED_M_S = 30.0
"""Of the vehicle between two photos."""
SLACK_M = 50.0
"""Added to what it can have flown: clocks count whole seconds."""


def consistent(fixes: Sequence[PhotoFix], stamps_s: Sequence[float], names: Sequence[str]) -> list[PhotoFix]:
    """The fixes of one flight in the order of time; those outside the longest path that can be flown are refused."""
    valid = [index for index, fix in enumerate(fixes) if fix.valid]
    longest: dict[int, list[int]] = {}
    for index in valid:
        before = (
            longest[other] for other in valid[: valid.index(index)] if _excess_m(fixes, stamps_s, other, index) <= 0
        )
        longest[index] = [*max(before, key=len, default=[]), index]
    path = max(longest.values(), key=len, default=[])
    checked = list(fixes)
    for index in set(valid) - set(path):
        near = min(path, key=lambda other: abs(stamps_s[other] - stamps_s[index]))
        away_m = _distance_m(fixes[near], fixes[index])
        checked[index] = PhotoFix(
            f"off the flight: {away_m:.0f} m from {names[near]}, "
            f"which was taken {abs(stamps_s[near] - stamps_s[index]):.0f} s away"
        )
    return checked


def reachable(fixes: Sequence[PhotoFix], stamps_s: Sequence[float], index: int) -> Area | None:
    """Where a photo must have been taken by the located one that is nearest in time; None without one."""
    located = [other for other, fix in enumerate(fixes) if fix.valid]
    if not located:
        return None
    near = min(located, key=lambda other: abs(stamps_s[other] - stamps_s[index]))
    fix = fixes[near]
    return Area(fix.lat_deg, fix.lon_deg, MAX_SPEED_M_S * abs(stamps_s[near] - stamps_s[index]) + SLACK_M)


def _distance_m(one: PhotoFix, other: PhotoFix) -> float:
    return math.hypot(*LocalEnu(one.lat_deg, one.lon_deg).to_enu(other.lat_deg, other.lon_deg))


def _excess_m(fixes: Sequence[PhotoFix], stamps_s: Sequence[float], one: int, other: int) -> float:
    """Distance beyond what the vehicle can have flown between two photos."""
    flown_m = MAX_SPEED_M_S * abs(stamps_s[other] - stamps_s[one]) + SLACK_M
    return _distance_m(fixes[one], fixes[other]) - flown_m
