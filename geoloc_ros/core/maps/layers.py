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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyproj
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from geoloc_models.errors import GeolocError

READ_ERRORS = (RasterioError, OSError, GeolocError)
"""All that a read of a damaged, vanished or unreachable source raises."""

GDAL_CACHE_MIB = 64
"""Enough for the strips of a raster that is not tiled; our own cache keeps the rest."""


@dataclass(frozen=True)
class Block:
    """Decoded pixels; `rgb` is None where the source has nothing at all."""

    rgb: np.ndarray | None  # (h, w, 3) uint8
    valid: np.ndarray | None = None  # (h, w) uint8, 255 where there is an image; None: everywhere

    @property
    def nbytes(self) -> int:
        """Memory that the pixels hold."""
        return sum(part.nbytes for part in (self.rgb, self.valid) if part is not None)


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
        """Decode a block that the source stores; raises one of READ_ERRORS."""

    @abstractmethod
    def close(self) -> None:
        """Let go of open files."""

    def read(self, index: int, row: int, col: int) -> Block:
        """Decode block (row, col) of level `index`; raises one of READ_ERRORS."""
        level = self.levels[index]
        if level.halved_from is None:
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
    all_four = cv2.resize(valid, size, interpolation=cv2.INTER_AREA) == 255
    mean = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Block(mean, None if all_four.all() else np.where(all_four, 255, 0).astype(np.uint8))


@dataclass
class Bands:
    """How a raster's bands become RGB and a mask."""

    indexes: list[int]  # one band (grey or palette) or three, and the alpha band last if there is one
    alpha: bool = False
    mask: bool = False  # GDAL keeps a mask beside the bands
    palette: np.ndarray | None = None  # (256, 4) uint8 RGBA
    low: np.ndarray | None = None  # (bands,) values shown as 0 ...
    high: np.ndarray | None = None  # ... and as 255; None for 8-bit bands
    nodata: list[float | None] = field(default_factory=list)
    nodata_rgb: tuple[int, int, int] | None = None
    tolerance: int = 0  # lossy compression blurs the no-data colour by this much


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
            with rasterio.Env(**self._options):
                source = self._handle(None)
                self._check(source)
                self.crs = pyproj.CRS.from_wkt(source.crs.to_wkt())
                self.levels = self._stored_levels(source)
                self._bands = _examine_bands(source, nodata_rgb)
        except (RasterioError, OSError) as error:
            raise GeolocError(f"map {path} cannot be read: {_one_line(error)}") from None
        except pyproj.exceptions.CRSError as error:
            raise GeolocError(f"map {path} has a CRS that PROJ does not understand: {_one_line(error)}") from None
        self.complete_levels()

    def _check(self, source: Any) -> None:
        if source.count == 0:
            raise GeolocError(f"map {self.name} has no bands; if it holds subdatasets, name one of them")
        if np.dtype(source.dtypes[0]).kind not in "uif":
            raise GeolocError(f"map {self.name} has {source.dtypes[0]} values; it needs integers or floats")
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


def _examine_bands(source: Any, nodata_rgb: tuple[int, int, int] | None) -> Bands:
    """Which bands are red, green, blue and alpha, what means no data, and how wider values become 8 bits."""
    meaning = list(source.colorinterp)
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    if all(colour in meaning for colour in colours):
        indexes = [meaning.index(colour) + 1 for colour in colours]
    else:
        plain = [i + 1 for i, band in enumerate(meaning) if band is not ColorInterp.alpha]
        indexes = plain[:3] if len(plain) >= 3 else plain[:1] or [1]
    bands = Bands(indexes, nodata=[source.nodatavals[i - 1] for i in indexes], nodata_rgb=nodata_rgb)
    if len(indexes) == 1 and meaning[indexes[0] - 1] is ColorInterp.palette:
        bands.palette = np.zeros((256, 4), np.uint8)
        for value, colour in source.colormap(indexes[0]).items():
            bands.palette[value] = colour
    elif source.dtypes[indexes[0] - 1] != "uint8":
        bands.low, bands.high = _value_range(source, indexes)
    if ColorInterp.alpha in meaning:
        bands.alpha = True
        bands.indexes = [*indexes, meaning.index(ColorInterp.alpha) + 1]
    else:
        bands.mask = MaskFlags.per_dataset in source.mask_flag_enums[0]
    lossy = str(source.compression).upper() if source.compression else source.driver.upper()
    if any(name in lossy for name in ("JPEG", "WEBP", "LERC", "JP2")):
        bands.tolerance = 8
    return bands


def _value_range(source: Any, indexes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """2nd and 98th percentile of each band, from a thumbnail."""
    scale = max(1.0, max(source.width, source.height) / 512)
    shape = (len(indexes), max(1, int(source.height / scale)), max(1, int(source.width / scale)))
    thumbnail = source.read(indexes, out_shape=shape, masked=True).astype(np.float64)
    values = np.ma.filled(thumbnail, np.nan).reshape(len(indexes), -1)
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(values).all(axis=1).any():
        raise GeolocError(f"map {source.name} holds no valid values in its bands {indexes}; check its no-data value")
    low, high = np.nanpercentile(values, (2.0, 98.0), axis=1)
    return low, np.maximum(high, low + 1e-9)


def to_block(data: np.ndarray, mask: np.ndarray | None, bands: Bands) -> Block:
    """Raw bands (bands, h, w), alpha last if there is one, to RGB and validity."""
    valid = np.full(data.shape[1:], 255, np.uint8) if mask is None else np.where(mask >= 128, 255, 0).astype(np.uint8)
    if bands.alpha:
        data, alpha = data[:-1], data[-1]
        whole = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1.0
        valid[alpha < whole / 2] = 0
    gap = _gap(data, bands.nodata, bands.tolerance)
    if bands.palette is not None:
        rgba = bands.palette[data[0].astype(np.uint8)]
        rgb = np.ascontiguousarray(rgba[..., :3])
        valid[rgba[..., 3] < 128] = 0
    else:
        if bands.low is not None and bands.high is not None:
            scale = 255.0 / (bands.high - bands.low)
            # NaN, a float raster's missing value, is masked already.
            scaled = (np.nan_to_num(data.astype(np.float32)) - bands.low[:, None, None]) * scale[:, None, None]
            data = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        rgb = cv2.merge([data[0]] * 3 if len(data) == 1 else list(data))
    if bands.nodata_rgb is not None:
        gap |= _gap(np.moveaxis(rgb, -1, 0), list(bands.nodata_rgb), bands.tolerance)
    valid[gap] = 0
    if valid.all():
        return Block(rgb)
    return Block(rgb, valid) if valid.any() else Block(None)


def _gap(data: np.ndarray, nodata: list[Any], tolerance: int) -> np.ndarray:
    """(h, w) bool: where (bands, h, w) is no-data over 5 x 5 px or more; a lone dark pixel is a shadow."""
    if data.dtype.kind != "f" and any(value is None for value in nodata):
        return np.zeros(data.shape[1:], bool)
    empty = _near(data, nodata, tolerance)
    if not empty.any():
        return empty
    gap = cv2.morphologyEx(empty.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    if tolerance and gap.any():
        # Lossy compression smears the edge of a gap over its own blocks of 8 or 16 pixels.
        fringe = cv2.dilate(gap, np.ones((33, 33), np.uint8)) > 0
        return (gap > 0) | (fringe & _near(data, nodata, 4 * tolerance))
    return gap > 0


def _near(data: np.ndarray, nodata: list[Any], tolerance: int) -> np.ndarray:
    """(h, w) bool: where every band of (bands, h, w) is NaN or within the tolerance of its no-data value."""
    floats = data.dtype.kind == "f"
    near = np.ones(data.shape[1:], bool)
    for band, value in zip(data, nodata, strict=True):
        same = np.isnan(band) if floats else np.zeros(band.shape, bool)
        if value is not None and not math.isnan(value):
            same |= np.abs(band.astype(np.float32) - value) <= tolerance if tolerance else band == value
        near &= same
    return near


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
