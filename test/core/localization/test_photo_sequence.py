# SPDX-License-Identifier: Apache-2.0
"""Photos of one flight, without any network: what cannot have been flown is refused."""

import pytest

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.photo_locator import PhotoFix
from geoloc_ros.core.localization.photo_sequence import MAX_SPEED_M_S, SLACK_M, consistent, reachable

HOME = LocalEnu(58.0, 26.0)
STAMPS_S = [0.0, 20.0, 40.0, 60.0]
NAMES = ["a", "b", "c", "d"]


def at(east_m: float) -> PhotoFix:
    lat_deg, lon_deg = HOME.to_geodetic(east_m, 0.0)
    return PhotoFix("", lat_deg, lon_deg)


def test_what_was_not_flown_is_refused() -> None:
    fixes = [at(0.0), at(5000.0), at(600.0), at(900.0)]
    checked = consistent(fixes, STAMPS_S, NAMES)
    assert [fix.valid for fix in checked] == [True, False, True, True]
    assert checked[1].reason == "off the flight: 5000 m from a, which was taken 20 s away"
    assert checked[0] is fixes[0]


def test_the_first_may_be_the_wrong_one() -> None:
    checked = consistent([at(9000.0), at(0.0), PhotoFix("blurred"), at(300.0)], STAMPS_S, NAMES)
    assert [fix.reason[:14] for fix in checked] == ["off the flight", "", "blurred", ""]


def test_where_a_photo_must_be() -> None:
    fixes = [at(0.0), PhotoFix("blurred"), PhotoFix("dark"), at(900.0)]
    area = reachable(fixes, [0.0, 15.0, 40.0, 60.0], 1)
    assert area is not None
    assert (area.lat_deg, area.lon_deg) == (fixes[0].lat_deg, fixes[0].lon_deg)
    assert area.radius_m == pytest.approx(15.0 * MAX_SPEED_M_S + SLACK_M)
    assert reachable([PhotoFix("dark")], [0.0], 0) is None
