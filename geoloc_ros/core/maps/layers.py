# SPDX-License-Identifier: Apache-2.0
"""Rasters as pyramids of RGB blocks: anything that GDAL opens (tile_folder.py: folders of XYZ tiles).

A layer has a CRS and levels, the finest first; a level is cut into blocks, and `read` decodes one of them.
`maps.RasterMap` caches the blocks and cuts crops out of them.
"""

import math
import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyproj
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.windows import Window

from geoloc_models.errors import GeolocError
from geoloc_ros.core.maps.bands import SPECK, Block, examine_bands, to_block

GDAL_CACHE_MIB = 64
"""Enough for the strips of a raster that is not tiled; our own cache keeps the rest."""


@dataclass(frozen=True)
class Level:
    """One resolution of a layer; column and row count from the corner of the top-left pixel."""

    width: int
    height: int
    crs_from_pixel: Affine
    block_width: int
    block_height: int
    overview: int | None = None  # GDAL's overview number; None is the full resolution
    halved_from: int | None = None  # index of the finer level that this one is averaged from
    zoom: int = 0  # of a tile folder
    first_tile: tuple[int, int] = (0, 0)  # x, y of a tile folder's top-left tile

    def halved(self, index: int) -> "Level":
        """The level of half the resolution, computed from this one, which has number `index`."""
        return Level(
            width=(self.width + 1) // 2,
            height=(self.height + 1) // 2,
            crs_from_pixel=_scaled(self.crs_from_pixel, 2.0, 2.0),
            block_width=self.block_width,
            block_height=self.block_height,
            halved_from=index,
        )


def _scaled(transform: Affine, x: float, y: float) -> Affine:
    """The georeference of pixels x times as wide and y times as high (affine 2 and 3 disagree on `*`)."""
    return Affine(transform.a * x, transform.b * y, transform.c, transform.d * x, transform.e * y, transform.f)


class Layer(ABC):
    """A pyramid in one CRS. Thread-safe: blocks may be read from several threads at a time."""

    name: str
    crs: pyproj.CRS
    levels: list[Level]
    sparse: bool = False  # levels differ in what they cover

    @abstractmethod
    def read_stored(self, level: Level, row: int, col: int) -> Block:
        """Decode a block that the source stores."""

    @abstractmethod
    def close(self) -> None:
        """Let go of open files."""

    def read(self, index: int, row: int, col: int) -> Block:
        """Decode block (row, col) of level `index`; GeolocError with the cause where the source cannot be read."""
        level = self.levels[index]
        if level.halved_from is None:
            with readable(self.name):
                return self.read_stored(level, row, col)
        finer = self.levels[level.halved_from]
        rows, cols = -(-finer.height // finer.block_height), -(-finer.width // finer.block_width)
        quarters = {
            (i, j): self.read(level.halved_from, 2 * row + i, 2 * col + j)
            for i in range(min(2, rows - 2 * row))
            for j in range(min(2, cols - 2 * col))
        }
        extent = (
            min(2 * finer.block_height, finer.height - 2 * row * finer.block_height),
            min(2 * finer.block_width, finer.width - 2 * col * finer.block_width),
        )
        return _average(quarters, finer, extent)

    def complete_levels(self) -> None:
        """Add averaged levels until one block holds the whole layer."""
        while (last := self.levels[-1]).width > last.block_width or last.height > last.block_height:
            self.levels.append(last.halved(len(self.levels) - 1))


@contextmanager
def readable(name: str, what: str = "") -> Iterator[None]:
    """Whatever GDAL and its bindings make of a damaged, vanished or unreachable source ends in one sentence."""
    try:
        yield
    except (GeolocError, MemoryError):
        raise
    except Exception as error:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper  # what GDAL found first, such as the name of a file that a VRT lists
        text = _one_line(cause) or type(cause).__name__
        gone = any(words in text.lower() for words in ("no such file", "not exist", "open failed", "failed to open"))
        remedy = "; restore that file or build the map again without it" if gone and name not in text else ""
        raise GeolocError(f"{what}{name} cannot be read: {text}{remedy}") from None


def _average(quarters: dict[tuple[int, int], Block], finer: Level, extent: tuple[int, int]) -> Block:
    """One block from up to four finer ones, by the mean of 2 x 2 pixels; valid where all four are.

    extent: (rows, columns) of finer pixels that the block represents, even if a whole quarter is empty.
    """
    if all(quarter.rgb is None for quarter in quarters.values()):
        return Block(None)
    bottom, right = extent
    rgb = np.zeros((bottom + bottom % 2, right + right % 2, 3), np.uint8)
    valid = np.zeros(rgb.shape[:2], np.uint8)
    for (i, j), quarter in quarters.items():
        if quarter.rgb is None:
            continue
        h, w = quarter.rgb.shape[:2]
        top, left = i * finer.block_height, j * finer.block_width
        rgb[top : top + h, left : left + w] = quarter.rgb
        valid[top : top + h, left : left + w] = 255 if quarter.valid is None else quarter.valid
    # An odd last row or column stands alone: repeat it, so that it is not averaged with nothing.
    if bottom % 2:
        rgb[-1], valid[-1] = rgb[-2], valid[-2]
    if right % 2:
        rgb[:, -1], valid[:, -1] = rgb[:, -2], valid[:, -2]
    size = (rgb.shape[1] // 2, rgb.shape[0] // 2)
    share = cv2.resize(valid, size, interpolation=cv2.INTER_AREA)
    all_four = share == 255
    mean = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    if all_four.all():
        return Block(mean)
    if (valid == SPECK).any():
        # Specks have the colour of their surroundings: two of four leave an image.
        without_gap = cv2.erode((valid > 0).astype(np.uint8), np.ones((2, 2), np.uint8), anchor=(0, 0))[::2, ::2] > 0
        all_four = without_gap & (share >= (255 + SPECK) // 2)
        return Block(mean, np.where(all_four, 255, np.where(without_gap, SPECK, 0)).astype(np.uint8))
    return Block(mean, np.where(all_four, 255, 0).astype(np.uint8))


class GdalLayer(Layer):
    """Any raster that GDAL opens: GeoTIFF, COG, VRT, MBTiles, a WMS, WMTS or XYZ description, ..."""

    def __init__(
        self, path: str | Path, nodata_rgb: tuple[int, int, int] | None = None, timeout_s: float = 10.0
    ) -> None:
        """Open and examine; GeolocError if the file is missing, unreadable, or lacks CRS or georeference."""
        self.name = str(path)
        seconds = max(1, math.ceil(timeout_s))  # whole ones; zero would mean no limit
        self._options = {"GDAL_HTTP_TIMEOUT": seconds, "GDAL_HTTP_CONNECTTIMEOUT": seconds}
        # GDAL keeps decoded blocks too, by default 5 % of the memory. It takes the limit from here at its first
        # read; set by rasterio.Env around each read, it makes reads in parallel return wrong pixels.
        os.environ.setdefault("GDAL_CACHEMAX", str(GDAL_CACHE_MIB))
        self._handles = threading.local()  # GDAL's handles must not be shared between threads
        self._opened: list[Any] = []
        self._opening = threading.Lock()
        # With a colon it may be a URL or one of GDAL's own names, "GPKG:file:table"; /vsi... is GDAL's own tree.
        if not (":" in self.name or self.name.startswith("/vsi") or Path(path).exists()):
            raise GeolocError(f"map {path} does not exist; check the path")
        try:
            with readable(self.name, "map "), rasterio.Env(**self._options):
                source = self._handle(None)
                self._check(source)
                self.crs = pyproj.CRS.from_wkt(source.crs.to_wkt())
                self.levels = self._stored_levels(source)
                self._bands = examine_bands(source, nodata_rgb)
        except pyproj.exceptions.CRSError as error:
            raise GeolocError(f"map {path} has a CRS that PROJ does not understand: {_one_line(error)}") from None
        self.complete_levels()

    def _check(self, source: Any) -> None:
        if source.count == 0:
            raise GeolocError(f"map {self.name} has no bands; if it holds subdatasets, name one of them")
        kinds = sorted(set(source.dtypes))
        if any("complex" in kind for kind in kinds):
            raise GeolocError(f"map {self.name} has {kinds[0]} values; it needs integers or floats")
        if len(kinds) > 1:
            raise GeolocError(
                f"map {self.name} has bands of several types ({', '.join(source.dtypes)}); make them one with "
                "gdal_translate -ot"
            )
        if source.crs is None:
            raise GeolocError(f"map {self.name} has no CRS; write one into it with gdal_edit.py -a_srs EPSG:code")
        if source.transform.is_identity or source.transform.is_degenerate:
            raise GeolocError(f"map {self.name} has no georeference; write one with gdal_edit.py -a_ullr or gdalwarp")

    def _handle(self, overview: int | None) -> Any:
        """This thread's own open data set."""
        handles = self._handles.__dict__
        key = str(overview)
        if key not in handles:
            options = {} if overview is None else {"overview_level": overview}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                handles[key] = rasterio.open(self.name, **options)
            with self._opening:
                self._opened.append(handles[key])
        return handles[key]

    def _stored_levels(self, source: Any) -> list[Level]:
        levels = []
        for overview in (None, *range(len(source.overviews(1)))):
            handle = self._handle(overview)
            block_height, block_width = handle.block_shapes[0]
            if not (64 <= block_width <= 1024 and 64 <= block_height <= 1024):
                # Strips: read squares instead, and leave strips that overlap two of them to GDAL's cache.
                block_height = block_width = 512
            transform = _scaled(source.transform, source.width / handle.width, source.height / handle.height)
            levels.append(Level(handle.width, handle.height, transform, block_width, block_height, overview))
        return levels

    def read_stored(self, level: Level, row: int, col: int) -> Block:
        left, top = col * level.block_width, row * level.block_height
        window = Window(
            left, top, min(level.block_width, level.width - left), min(level.block_height, level.height - top)
        )
        with rasterio.Env(**self._options):
            source = self._handle(level.overview)
            data = source.read(self._bands.indexes, window=window)
            mask = source.read_masks(1, window=window) if self._bands.mask else None
        return to_block(data, mask, self._bands)

    def close(self) -> None:
        with self._opening:
            for handle in self._opened:
                handle.close()
            self._opened.clear()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
