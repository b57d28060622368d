# SPDX-License-Identifier: Apache-2.0
"""PX4's conventions turned into ours; pure numbers, for the live bridge and for bags alike.

PX4 has its attitude as a quaternion w, x, y, z from the FRD body to NED and its positions in a local NED frame. Here
the body is FLU and the world ENU (REP-103).
"""

import math
from dataclasses import dataclass

HALF_TURN = math.sqrt(0.5)
PX4_RADIUS_M = 6_371_000.0
"""PX4 projects its local frame from a sphere (src/lib/geo)."""


@dataclass(frozen=True)
class Origin:
    """Where PX4's local frame begins: WGS84 degrees, altitude above sea level, m."""

    lat_deg: float
    lon_deg: float
    amsl_m: float


def enu_from_flu_quaternion(w: float, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) that turns FLU into ENU, from PX4's (w, x, y, z) that turns FRD into NED.

    The product ENU<-NED * q * FRD<-FLU, a half turn about the north-east diagonal and one about the nose. Values that
    are not finite stay so.
    """
    return HALF_TURN * (x + y), HALF_TURN * (x - y), HALF_TURN * (w - z), HALF_TURN * (w + z)


def ned_from_frd_quaternion(x: float, y: float, z: float, w: float) -> tuple[float, float, float, float]:
    """(w, x, y, z) that turns FRD into NED, from (x, y, z, w) that turns FLU into ENU.

    Undoes `enu_from_flu_quaternion`: the turn between the conventions is its own inverse, up to the order of the
    factors.
    """
    return HALF_TURN * (z + w), HALF_TURN * (x + y), HALF_TURN * (x - y), HALF_TURN * (w - z)


def height_above_ground_m(z_valid: bool, z_m: float, dist_bottom_valid: bool, dist_bottom_m: float) -> float:
    """Height above ground from the fields of VehicleLocalPosition, m; NaN if none is valid.

    The measured distance to the surface if there is one, else the height above the origin of PX4's local frame, where
    its estimator started.
    """
    if dist_bottom_valid and math.isfinite(dist_bottom_m):
        return float(dist_bottom_m)
    return -z_m if z_valid and math.isfinite(z_m) else math.nan


def px4_local_m(lat_deg: float, lon_deg: float, origin: Origin) -> tuple[float, float]:
    """(north, east) in PX4's local frame, m: the azimuthal equidistant projection of its sphere.

    Half a per cent off the ellipsoid, and PX4 goes back the same way, so that the place comes out right.
    """
    lat, lat0 = math.radians(lat_deg), math.radians(origin.lat_deg)
    turn = math.radians(lon_deg - origin.lon_deg)
    north = math.cos(lat0) * math.sin(lat) - math.sin(lat0) * math.cos(lat) * math.cos(turn)
    east = math.cos(lat) * math.sin(turn)
    sine = math.hypot(north, east)
    arc = math.atan2(sine, math.sin(lat0) * math.sin(lat) + math.cos(lat0) * math.cos(lat) * math.cos(turn))
    scale = PX4_RADIUS_M * (arc / sine if sine > 0 else 1.0)
    return scale * north, scale * east
