# SPDX-License-Identifier: Apache-2.0
"""The local metric frame against geodesics computed by GeographicLib (pyproj.Geod)."""

import numpy as np
import pytest
from pyproj import Geod

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu

ORIGINS = [(0.0, 0.0), (27.08, 112.78), (-45.0, 170.2), (60.0, 25.0), (80.0, -40.0), (-16.5, 180.0), (80.0, 179.999)]


@pytest.mark.parametrize(("lat_deg", "lon_deg"), ORIGINS)
def test_agrees_with_geodesics(lat_deg: float, lon_deg: float) -> None:
    geod = Geod(ellps="WGS84")
    rng = np.random.default_rng(1)
    azimuth_deg, distance_m = rng.uniform(-180, 180, 200), rng.uniform(0, 20_000, 200)
    lon, lat, _ = geod.fwd(np.full(200, lon_deg), np.full(200, lat_deg), azimuth_deg, distance_m)
    east_m, north_m = LocalEnu(lat_deg, lon_deg).to_enu(lat, lon)
    np.testing.assert_allclose(east_m, distance_m * np.sin(np.radians(azimuth_deg)), atol=1e-3)
    np.testing.assert_allclose(north_m, distance_m * np.cos(np.radians(azimuth_deg)), atol=1e-3)


@pytest.mark.parametrize(("lat_deg", "lon_deg"), ORIGINS)
def test_round_trip_is_below_a_millimetre(lat_deg: float, lon_deg: float) -> None:
    enu = LocalEnu(lat_deg, lon_deg)
    east_m, north_m = np.meshgrid(np.linspace(-5000, 5000, 11), np.linspace(-5000, 5000, 11))
    lat, lon = enu.to_geodetic(east_m, north_m)
    assert np.all(np.abs(lon) <= 180.0)
    back_east_m, back_north_m = enu.to_enu(lat, lon)
    assert back_east_m.shape == (11, 11)
    np.testing.assert_allclose(back_east_m, east_m, atol=1e-3)
    np.testing.assert_allclose(back_north_m, north_m, atol=1e-3)


def test_length_of_one_degree() -> None:
    # Arc lengths of the WGS84 ellipsoid: 110,574.4 m of meridian from the equator, 111,319.491 m of equator.
    enu = LocalEnu(0.0, 0.0)
    assert enu.to_enu(1.0, 0.0) == pytest.approx((0.0, 110_574.389), abs=0.01)
    assert enu.to_enu(0.0, 1.0) == pytest.approx((111_319.491, 0.0), abs=0.01)


def test_scalars_in_scalars_out() -> None:
    lat_deg, lon_deg = LocalEnu(10.0, 20.0).to_geodetic(np.float32(0.0), 0)
    assert isinstance(lat_deg, float) and isinstance(lon_deg, float)
    assert (lat_deg, lon_deg) == pytest.approx((10.0, 20.0), abs=1e-12)


@pytest.mark.parametrize(("lat_deg", "lon_deg"), [(float("nan"), 0.0), (0.0, float("inf")), (90.5, 0.0)])
def test_impossible_origin_is_refused(lat_deg: float, lon_deg: float) -> None:
    with pytest.raises(GeolocError, match="no place on Earth"):
        LocalEnu(lat_deg, lon_deg)
