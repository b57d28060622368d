# SPDX-License-Identifier: Apache-2.0
"""A crop of the map: a north-up square of true metres.

A crop's frame is the local ENU plane at its centre (geodesy.LocalEnu): x px to the right is east, y px down is south,
(0, 0) is the outer corner of the top-left pixel. It is right at any latitude and for any CRS.
"""

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from geoloc_ros.core.geometry.geodesy import LocalEnu

MAX_CROP_M = 100_000.0
"""Side of the largest crop that is served: beyond it a local plane is none."""
MAX_CROP_PX = 8192
"""The same in pixels: 200 MB of RGB."""


class CropStatus(enum.IntEnum):
    """How a crop went; the numbers are those of srv/GetMap.srv."""

    OK = 0
    PARTLY_COVERED = 1
    OUT_OF_BOUNDS = 2
    UNREADABLE = 3
    TIMED_OUT = 4
    INVALID = 5

    @property
    def is_failure(self) -> bool:
        """Whether there is no answer of what the map shows there."""
        return self in (CropStatus.UNREADABLE, CropStatus.TIMED_OUT, CropStatus.INVALID)


@dataclass(frozen=True)
class MapCrop:
    """A north-up square of the map; uncovered pixels have the mean colour of the covered ones."""

    image: np.ndarray  # (size_px, size_px, 3) uint8 RGB
    lat_deg: float  # centre
    lon_deg: float
    size_m: float
    gsd_m: float
    coverage: float  # share of pixels that hold map data
    status: CropStatus
    text: str

    def pixel_to_geodetic(self, x_px: Any, y_px: Any) -> tuple[Any, Any]:
        """(lat_deg, lon_deg) of pixel-edge coordinates, floats or arrays."""
        half_m = self.size_m / 2
        x_m, y_m = np.multiply(x_px, self.gsd_m), np.multiply(y_px, self.gsd_m)
        return LocalEnu(self.lat_deg, self.lon_deg).to_geodetic(x_m - half_m, half_m - y_m)

    def geodetic_to_pixel(self, lat_deg: Any, lon_deg: Any) -> tuple[Any, Any]:
        """Pixel-edge coordinates (x_px, y_px) of places, floats or arrays; the inverse of the above."""
        east_m, north_m = LocalEnu(self.lat_deg, self.lon_deg).to_enu(lat_deg, lon_deg)
        half_m = self.size_m / 2
        return (east_m + half_m) / self.gsd_m, (half_m - north_m) / self.gsd_m


class MapSource(Protocol):
    """Whatever cuts crops: a RasterMap, or the map server's client."""

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        """The square of size_m metres about the centre, as size_px pixels."""
        ...
