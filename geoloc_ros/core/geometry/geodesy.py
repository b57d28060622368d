# SPDX-License-Identifier: Apache-2.0
"""Latitude and longitude to metres and back, around one point.

The local frame is the azimuthal equidistant plane of the WGS84 ellipsoid about its origin: distance and
direction from the origin are those of the geodesic. Near the origin it is the tangent plane of REP-103
(x east, y north) and it needs no height, so it is the same for the map, the camera and the filter. It is
right at any latitude and across the antimeridian, where metres per degree of longitude are not.
"""

import math
from typing import Any

import numpy as np
from pyproj import Transformer
from pyproj.enums import TransformDirection

from geoloc_models.errors import GeolocError

_INVERSE = TransformDirection.INVERSE


def check_place(lat_deg: float, lon_deg: float) -> None:
    """GeolocError for a latitude beyond ±90° or a longitude beyond ±180°, NaN included."""
    if not (abs(lat_deg) <= 90.0 and abs(lon_deg) <= 180.0):
        raise GeolocError(
            f"latitude {lat_deg}, longitude {lon_deg} is no place on Earth: give degrees, latitude first, latitude "
            "within ±90 and longitude within ±180"
        )


class LocalEnu:
    """East and north metres around an origin on WGS84."""

    def __init__(self, lat_deg: float, lon_deg: float) -> None:
        """Set the origin; GeolocError if it is not a finite latitude in ±90° and a finite longitude."""
        if not (math.isfinite(lat_deg) and math.isfinite(lon_deg) and abs(lat_deg) <= 90.0):
            raise GeolocError(
                f"latitude {lat_deg}, longitude {lon_deg} is no place on Earth: "
                "give degrees, latitude first, latitude within ±90"
            )
        self.lat_deg = float(lat_deg)
        self.lon_deg = float(lon_deg)
        # A bare pipeline needs no CRS database look-up, so that a new origin costs 0.06 ms.
        self._from_enu = Transformer.from_pipeline(
            f"+proj=pipeline +step +inv +proj=aeqd +lat_0={self.lat_deg!r} +lon_0={self.lon_deg!r} "
            "+ellps=WGS84 +step +proj=unitconvert +xy_in=rad +xy_out=deg"
        )

    def to_enu(self, lat_deg: Any, lon_deg: Any) -> tuple[Any, Any]:
        """(east_m, north_m) of one place (floats) or of arrays of places (arrays of the same shape)."""
        east_m, north_m = self._from_enu.transform(_plain(lon_deg), _plain(lat_deg), direction=_INVERSE)
        return east_m, north_m

    def to_geodetic(self, east_m: Any, north_m: Any) -> tuple[Any, Any]:
        """(lat_deg, lon_deg) of one point (floats) or of arrays of points; longitude in [-180, 180]."""
        lon_deg, lat_deg = self._from_enu.transform(_plain(east_m), _plain(north_m))
        return lat_deg, lon_deg


def _plain(values: Any) -> Any:
    """Arrays as float64; scalars, NumPy's own included, as float, so that scalars in give scalars out."""
    return float(values) if np.ndim(values) == 0 else np.asarray(values, dtype=np.float64)
