# SPDX-License-Identifier: Apache-2.0
"""A generated world: two georeferenced images of the same ground, as if of two dates and two sensors.

    world = generate_world(1500.0, 0.3, seed=1)
    world.write_geotiff("map.tif", date=1)

Made for demos, tests and training where no real imagery may be shipped. `world_layout.py` decides what stands
where, `world_canvas.py` draws it, `world_render.py` lights and photographs it; this module ties the two dates
together and georeferences them.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine

from geoloc_models.errors import GeolocError
from geoloc_models.world.canvas import Look
from geoloc_models.world.layout import make_layout
from geoloc_models.world.render import Ground, draw_date

ORIGIN_DEG = (49.05, 9.62)
"""Centre of the world unless another is given: farmland in the middle of Europe, nothing is copied from it."""

MISREGISTRATION_M = 0.7
"""Standard deviation, per axis, of the second date's displacement: what aligned archives show."""

MISREGISTRATION_WAVELENGTH_M = 350.0
LIMIT_PX = 12000


@dataclass(frozen=True)
class World:
    """Two north-up (grid north) images of the same ground."""

    date1: np.ndarray  # (n, n, 3) uint8 RGB
    date2: np.ndarray  # (n, n, 3) uint8 RGB
    gsd_m: float
    lat_deg: float  # of the centre
    lon_deg: float
    epsg: int  # UTM zone of the centre
    upper_left_m: tuple[float, float]  # UTM easting and northing of the outer corner of the first pixel
    shift_grid_m: np.ndarray  # (k, k, 2) of date 2 against date 1, metres east and south, even over the area

    @property
    def size_m(self) -> float:
        """Side of the square."""
        return self.date1.shape[0] * self.gsd_m

    def write_geotiff(self, path: str | Path, date: int, jpeg_quality: int = 92) -> None:
        """Write date 1 or 2 as a tiled, compressed GeoTIFF in UTM with overviews."""
        if date not in (1, 2):
            raise GeolocError(f"date is {date}; a world has the dates 1 and 2")
        image = self.date1 if date == 1 else self.date2
        left, top = self.upper_left_m
        profile = {
            "driver": "GTiff",
            "width": image.shape[1],
            "height": image.shape[0],
            "count": 3,
            "dtype": "uint8",
            "crs": CRS.from_epsg(self.epsg),
            "transform": Affine(self.gsd_m, 0.0, left, 0.0, -self.gsd_m, top),
            "tiled": True,
            "blockxsize": 512,
            "blockysize": 512,
            "compress": "jpeg",
            "photometric": "ycbcr",
            "jpeg_quality": jpeg_quality,
        }
        with rasterio.open(path, "w", **profile) as target:
            target.write(image.transpose(2, 0, 1))
            target.build_overviews([2, 4, 8, 16], Resampling.average)

    def preview(self, size_px: int = 1000) -> np.ndarray:
        """Both dates whole, side by side, above their middles at full resolution: (2 h, 2 w, 3) uint8 RGB."""
        both = (self.date1, self.date2)
        whole = [cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA) for image in both]
        start = max(0, (self.date1.shape[0] - size_px) // 2)
        part = [image[start : start + size_px, start : start + size_px] for image in both]
        part = [cv2.resize(image, (size_px, size_px)) for image in part]
        return np.vstack([np.hstack(whole), np.hstack(part)])


def generate_world(
    size_m: float = 1500.0,
    gsd_m: float = 0.3,
    seed: int = 0,
    lat_deg: float = ORIGIN_DEG[0],
    lon_deg: float = ORIGIN_DEG[1],
) -> World:
    """Make a world; the same numbers always give the same pixels (on one build of OpenCV and NumPy).

    size_m: side of the square, 100 m or more. gsd_m: 0.1 to 1.0. GeolocError outside these limits.
    """
    if not (size_m >= 100 and 0.1 <= gsd_m <= 1.0):
        raise GeolocError(f"size {size_m} m at {gsd_m} m; give a size of 100 m or more and 0.1 to 1.0 m a pixel")
    size_px = round(size_m / gsd_m)
    if size_px > LIMIT_PX:
        raise GeolocError(f"{size_px} px a side; at most {LIMIT_PX} fit the memory, take a smaller size or larger gsd")
    rng = np.random.default_rng(seed)
    layout = make_layout(size_px * gsd_m, rng)
    ground = Ground(size_px, gsd_m, rng)
    summer_first = bool(rng.integers(2))
    looks = [Look.draw(rng, summer) for summer in (summer_first, not summer_first)]
    first, second = (draw_date(layout, ground, date, looks[date], gsd_m, seed) for date in (0, 1))
    knots = max(2, math.ceil(size_m / MISREGISTRATION_WAVELENGTH_M) + 1)
    shift = rng.normal(0, MISREGISTRATION_M, (knots, knots, 2)).astype(np.float32)
    second = _displace(second, shift / gsd_m)

    zone = int((lon_deg + 180) // 6) % 60 + 1
    epsg = (32600 if lat_deg >= 0 else 32700) + zone
    east, north = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon_deg, lat_deg)
    half = size_px * gsd_m / 2
    return World(first, second, gsd_m, lat_deg, lon_deg, epsg, (east - half, north + half), shift)


def _displace(image: np.ndarray, grid_px: np.ndarray) -> np.ndarray:
    """The image with its content moved by a smooth field given on an even grid, (k, k, 2) right and down."""
    size = image.shape[0]
    result = np.empty_like(image)
    knots = grid_px.shape[0]
    for top in range(0, size, 512):
        rows = np.arange(top, min(top + 512, size), dtype=np.float32)
        x, y = np.meshgrid(np.arange(size, dtype=np.float32), rows)
        scale = np.float32((knots - 1) / max(size - 1, 1))
        shift = cv2.remap(grid_px, x * scale, y * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        result[top : top + len(rows)] = cv2.remap(
            image, x - shift[..., 0], y - shift[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
    return result
