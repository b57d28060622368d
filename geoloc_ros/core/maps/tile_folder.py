# SPDX-License-Identifier: Apache-2.0
"""Folders of XYZ or TMS tiles as a layer of a map."""

import json
import math
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pyproj
from rasterio.transform import Affine

from geoloc_models.errors import GeolocError
from geoloc_ros.core.maps.bands import Bands, Block, to_block
from geoloc_ros.core.maps.layers import Layer, Level

_WEB_MERCATOR_HALF_M = math.pi * 6378137.0
TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def _numbered(folder: str | Path) -> list[str]:
    """Names of the entries that are plain numbers."""
    return [name for name in os.listdir(folder) if name.isdigit()] if os.path.isdir(folder) else []


def _is_tile(name: str) -> bool:
    stem, suffix = os.path.splitext(name)
    return stem.isdigit() and suffix.lower() in TILE_SUFFIXES


def _tile_extent(folder: Path) -> tuple[int, int, int, int] | None:
    """Smallest and largest x and y (x0, y0, x1, y1) of the tiles of one zoom; None if there are none."""
    xs, ys = [], []
    for x in _numbered(folder):
        # Only names are read: a folder may hold a million tiles.
        rows = [int(os.path.splitext(name)[0]) for name in os.listdir(folder / x) if _is_tile(name)]
        if rows:
            xs.append(int(x))
            ys += [min(rows), max(rows)]
    return (min(xs), min(ys), max(xs), max(ys)) if xs else None


def _counts_from_south(folder: Path) -> bool:
    """Whether the rows are those of TMS, as gdal2tiles' tilemapresource.xml or a metadata.json beside the tiles state.

    GeolocError for tiles of another grid than web Mercator's.
    """
    resource, described = folder / "tilemapresource.xml", folder / "metadata.json"
    if resource.is_file():
        text = resource.read_text(encoding="utf-8", errors="replace")
        profile = re.search(r"<TileSets[^>]*\bprofile\s*=\s*[\"']([\w-]*)", text)
        if profile and profile[1] not in ("mercator", "global-mercator"):
            raise GeolocError(
                f"map {folder} has tiles of profile {profile[1]}; make them with `gdal2tiles --xyz`, in web Mercator"
            )
        return True
    try:
        values = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    except ValueError:
        return False
    return isinstance(values, dict) and str(values.get("scheme", "")).lower() == "tms"


def _tile_level(zoom: int, extent: tuple[int, int, int, int], side_px: int) -> Level:
    left, top, right, bottom = extent
    tile_m = 2 * _WEB_MERCATOR_HALF_M / 2**zoom
    west_m, north_m = left * tile_m - _WEB_MERCATOR_HALF_M, _WEB_MERCATOR_HALF_M - top * tile_m
    return Level(
        width=(right - left + 1) * side_px,
        height=(bottom - top + 1) * side_px,
        crs_from_pixel=Affine(tile_m / side_px, 0.0, west_m, 0.0, -tile_m / side_px, north_m),
        block_width=side_px,
        block_height=side_px,
        zoom=zoom,
        first_tile=(left, top),
    )


class TileFolder(Layer):
    """A folder {z}/{x}/{y}.png (or jpg, jpeg, webp) of web Mercator tiles.

    y counts from the north, or from the south where a file in the folder states it (gdal2tiles without --xyz).
    """

    def __init__(self, path: str | Path, nodata_rgb: tuple[int, int, int] | None = None) -> None:
        """List the tiles; GeolocError if there are none."""
        self.name = str(path)
        self.crs = pyproj.CRS.from_epsg(3857)
        self.sparse = True
        self._bands = Bands([1, 2, 3], nodata_rgb=nodata_rgb, nodata=[None] * 3)
        self._folder = Path(path)
        self._from_south = _counts_from_south(self._folder)
        extents = {int(zoom): extent for zoom in _numbered(path) if (extent := _tile_extent(self._folder / zoom))}
        if self._from_south:
            extents = {
                zoom: (left, self._row(zoom, bottom), right, self._row(zoom, top))
                for zoom, (left, top, right, bottom) in extents.items()
            }
        if not extents:
            raise GeolocError(f"folder {path} holds no tiles; it needs files such as 17/70000/45000.png (z/x/y)")
        side_px = self._tile_side_px()
        self.levels = [_tile_level(zoom, extents[zoom], side_px) for zoom in sorted(extents, reverse=True)]
        self.complete_levels()

    def _row(self, zoom: int, y: int) -> int:
        """A tile's y as its files count, of that from the north, and the other way round."""
        return 2**zoom - 1 - y if self._from_south else y

    def _tile_side_px(self) -> int:
        """256 or 512, from the first tile that decodes."""
        for file in self._folder.glob("*/*/*"):
            image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED) if _is_tile(file.name) else None
            if image is not None:
                return int(image.shape[0])
        raise GeolocError(f"no tile in {self.name} can be decoded; check the files")

    def read_stored(self, level: Level, row: int, col: int) -> Block:
        x, y = level.first_tile[0] + col, level.first_tile[1] + row
        stem = self._folder / str(level.zoom) / str(x) / str(self._row(level.zoom, y))
        ends = (*TILE_SUFFIXES, *(end.upper() for end in TILE_SUFFIXES))
        file = next((path for end in ends if (path := stem.with_suffix(end)).is_file()), None)
        if file is None:
            return Block(None)
        image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None or image.shape[:2] != (level.block_height, level.block_width):
            raise GeolocError(f"tile {file} is damaged or not {level.block_width} px square; fetch it again")
        if image.dtype != np.uint8:
            image = (image / 257).astype(np.uint8)
        mask = image[..., 3] if image.ndim == 3 and image.shape[2] == 4 else None
        grey = image.ndim == 2 or image.shape[2] == 1
        data = [image.reshape(image.shape[:2])] if grey else [image[..., 2], image[..., 1], image[..., 0]]
        return to_block(np.stack(data), mask, self._bands)

    def close(self) -> None:
        """No file stays open between two reads."""
