# SPDX-License-Identifier: Apache-2.0
"""Galleries of a map made when they are first needed, in tiles of the size that a photo shows, and kept."""

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from geoloc_models.ast.retriever import Retriever
from geoloc_models.errors import GeolocError
from geoloc_models.training.processes import Processes
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.relocalization.gallery import Area, Gallery
from geoloc_ros.core.relocalization.gallery_build import BoundedMap, GalleryBuild

TILE_SIDE_STEP = 2.0
"""Between the sides of tiles that galleries are made of: powers of it, in m."""
LEAST_SIDE_M = 16.0
STRIDE_SHARE = 0.4
"""Between neighbouring tiles, share of their side."""
LEAST_SHOWN, MOST_SHOWN = 0.5, 1.15
"""Sides of tiles that a photo can be compared with, as shares of the ground that it shows."""


def default_folder() -> Path:
    """Where galleries are kept: $XDG_CACHE_HOME/geoloc/galleries."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "geoloc" / "galleries"


@dataclass(frozen=True)
class _Part:
    """A part of a map as a map."""

    source: RasterMap
    bounds_deg: tuple[float, float, float, float]

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        return self.source.crop(lat_deg, lon_deg, size_m, size_px)


class GalleryCache:
    """Galleries of one map, or of an area of it, by the side of their tiles."""

    def __init__(
        self,
        map_path: Path,
        source: RasterMap,
        retriever: Retriever,
        area: Area | None = None,
        folder: Path | None = None,
        advance: Callable[[float, int, int], None] = lambda side_m, done, total: None,
    ) -> None:
        """folder: None for the default one. advance(side_m, done, total): after each tile of a gallery that is made."""
        self._map_path, self._source, self._retriever, self._area = map_path.resolve(), source, retriever, area
        self._folder, self._advance = folder or default_folder(), advance
        self._opened: dict[float, Gallery] = {}
        own = self._map_path.with_name(self._map_path.name + ".gallery")
        self._own = Gallery(own, retriever.weights_id, source) if own.exists() else None

    def gallery(self, shown_m: float) -> Gallery:
        """The gallery for photos that show so much ground: MAP.gallery if it has such tiles, or else one of the cache.

        GeolocError: the map is smaller than a tile or cannot be read.
        """
        sides = () if self._own is None else self._own.info.tile_m
        if self._own is not None and any(LEAST_SHOWN * shown_m <= side <= MOST_SHOWN * shown_m for side in sides):
            return self._own
        # A map that is smaller than the photo has smaller tiles, as long as it has any.
        most_m = min(MOST_SHOWN * shown_m, *_spans_m(self._source.bounds_deg))
        side_m = TILE_SIDE_STEP ** math.floor(math.log(max(most_m, LEAST_SIDE_M), TILE_SIDE_STEP))
        if side_m not in self._opened:
            self._opened[side_m] = self._open(side_m)
        return self._opened[side_m]

    def _open(self, side_m: float) -> Gallery:
        path = self._folder / f"{self._map_path.stem}-{self._key()}-{side_m:g}m.gallery"
        try:
            return Gallery(path, self._retriever.weights_id, self._source)
        except GeolocError:
            path.unlink(missing_ok=True)  # none yet, or of a map that has changed since
        self._folder.mkdir(parents=True, exist_ok=True)
        source: BoundedMap = self._source
        if self._area is not None:
            source = _Part(self._source, self._bounds_deg(self._area, side_m))
        build = GalleryBuild(
            self._map_path.name, source, self._retriever, path, (side_m,), round(STRIDE_SHARE * side_m, 1)
        )
        build.run(Processes(0, 1, torch.device("cpu")), lambda done, total: self._advance(side_m, done, total))
        return Gallery(path, self._retriever.weights_id)

    def _key(self) -> str:
        """Changes with the file, the weights and the area."""
        stat = self._map_path.stat()
        of = (str(self._map_path), stat.st_mtime_ns, stat.st_size, self._retriever.weights_id, self._area)
        return hashlib.sha256(repr(of).encode()).hexdigest()[:12]

    def _bounds_deg(self, area: Area, side_m: float) -> tuple[float, float, float, float]:
        """(south, west, north, east) of the map's part in the area, with a tile around it: the map may end there."""
        reach_m = area.radius_m + side_m
        enu = LocalEnu(area.lat_deg, area.lon_deg)
        lat_deg, lon_deg = enu.to_geodetic([-reach_m, 0, reach_m, 0], [0, -reach_m, 0, reach_m])
        south, west, north, east = self._source.bounds_deg
        part = (
            max(south, float(lat_deg[1])),
            max(west, float(lon_deg[0])),
            min(north, float(lat_deg[3])),
            min(east, float(lon_deg[2])),
        )
        if part[0] >= part[2] or part[1] >= part[3] or min(_spans_m(part)) < 1.01 * side_m:
            raise GeolocError(
                f"the map spans {south:.5f}, {west:.5f} to {north:.5f}, {east:.5f}, not {area.lat_deg:.5f}, "
                f"{area.lon_deg:.5f}: give another place with --near, or another --map"
            )
        return part


def _spans_m(bounds_deg: tuple[float, float, float, float]) -> tuple[float, float]:
    """Height and least width."""
    south, west, north, east = bounds_deg
    middle = (south + north) / 2
    width_deg = (east - west) % 360.0
    height_m = math.hypot(*LocalEnu(south, west).to_enu(north, west))
    return height_m, min(
        math.hypot(*LocalEnu(lat, west).to_enu(lat, west + width_deg)) for lat in (south, middle, north)
    )
