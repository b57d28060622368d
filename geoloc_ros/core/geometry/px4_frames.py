# SPDX-License-Identifier: Apache-2.0
"""PX4's conventions turned into ours; pure numbers, for the live bridge and for bags alike.

PX4 has its attitude as a quaternion w, x, y, z from the FRD body to NED and its positions in a local NED frame. Here
the body is FLU and the world ENU (REP-103).
"""

import math

HALF_TURN = math.sqrt(0.5)


def enu_from_flu_quaternion(w: float, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) that turns FLU into ENU, from PX4's (w, x, y, z) that turns FRD into NED.

    The product ENU<-NED * q * FRD<-FLU, a half turn about the north-east diagonal and one about the nose. Values that
    are not finite stay so.
    """
    return HALF_TURN * (x + y), HALF_TURN * (x - y), HALF_TURN * (w - z), HALF_TURN * (w + z)


def height_above_ground_m(z_valid: bool, z_m: float, dist_bottom_valid: bool, dist_bottom_m: float) -> float:
    """Height above ground from the fields of VehicleLocalPosition, m; NaN if none is valid.

    The measured distance to the surface if there is one, else the height above the origin of PX4's local frame, where
    its estimator started.
    """
    if dist_bottom_valid and math.isfinite(dist_bottom_m):
        return float(dist_bottom_m)
    return -z_m if z_valid and math.isfinite(z_m) else math.nan
