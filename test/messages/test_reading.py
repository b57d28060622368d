# SPDX-License-Identifier: Apache-2.0
"""PX4's messages read by their fields, by the same rules as ROS's; no ROS needed."""

import math
from types import SimpleNamespace

import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.messages.reading import (
    altitude_amsl_from_px4,
    has_orientation,
    height_from_altitude,
    height_from_px4,
    quaternion_from_imu,
)


def position(**changed: float | bool) -> SimpleNamespace:
    """VehicleLocalPosition, 50 m above the take-off and 43.5 m above the ground."""
    usual = {"z_valid": True, "z": -50.0, "dist_bottom_valid": True, "dist_bottom": 43.5}
    return SimpleNamespace(**usual | {"z_global": True, "ref_alt": 100.0} | changed)


def test_attitude() -> None:
    level_to_the_north = SimpleNamespace(q=[1.0, 0.0, 0.0, 0.0])
    assert has_orientation(level_to_the_north)
    half = math.sqrt(0.5)
    assert quaternion_from_imu(level_to_the_north) == pytest.approx((0.0, 0.0, half, half))
    with pytest.raises(GeolocError, match="quaternion is zero"):
        quaternion_from_imu(SimpleNamespace(q=[0.0, 0.0, 0.0, 0.0]))
    with pytest.raises(GeolocError, match="not finite"):
        quaternion_from_imu(SimpleNamespace(q=[math.nan, 0.0, 0.0, 0.0]))


def test_height() -> None:
    assert height_from_altitude(position()) == 43.5
    assert height_from_altitude(position(dist_bottom_valid=False)) == 50.0
    for unknown in (position(z_valid=False, dist_bottom_valid=False), position(dist_bottom=-0.5)):
        with pytest.raises(GeolocError, match="must be positive"):
            height_from_altitude(unknown)
    with pytest.raises(GeolocError, match="the limit is 50000 m"):
        height_from_altitude(SimpleNamespace(data=1e12))
    assert height_from_px4(position(dist_bottom=-0.5)) == -0.5, "the bridge passes on what PX4 reports"


def test_altitude_above_sea_level() -> None:
    assert altitude_amsl_from_px4(position()) == 150.0
    assert math.isnan(altitude_amsl_from_px4(position(z_global=False)))
