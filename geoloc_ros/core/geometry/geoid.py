# SPDX-License-Identifier: Apache-2.0
"""Mean sea level: the geoid EGM96, as GNSS receivers and autopilots have it, from the package egm96."""

from geoloc_models.errors import GeolocError


def undulation_m(lat_deg: float, lon_deg: float) -> float:
    """Height of the geoid over the WGS84 ellipsoid, m: altitude above sea level = ellipsoidal altitude - undulation.

    The grid of 5' is in the package; the first call reads it, 1 s. GeolocError if the package is missing.
    """
    try:
        from egm96 import undulation
    except ImportError:
        # Its metadata ask for a newer Python than its code needs.
        raise GeolocError(
            "altitudes above sea level need the package egm96, which is not here; install it with "
            "`pip install --no-deps --ignore-requires-python egm96==0.3.0`"
        ) from None
    return float(undulation(lat_deg, lon_deg))
