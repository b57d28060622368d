# SPDX-License-Identifier: Apache-2.0
"""A raster's bands as RGB and validity: colours, palettes, alpha, masks, no-data values, more than 8 bits."""

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from geoloc_models.errors import GeolocError

SPECK = 128
"""Validity of a pixel without data among others with data: it is not drawn, but does not thin out coarser levels."""


@dataclass(frozen=True)
class Block:
    """Decoded pixels; `rgb` is None where the source has nothing at all."""

    rgb: np.ndarray | None  # (h, w, 3) uint8
    valid: np.ndarray | None = None  # (h, w) uint8: 255 image, 0 gap, SPECK a lone hole; None: image everywhere

    @property
    def nbytes(self) -> int:
        """Memory that the pixels hold."""
        return sum(part.nbytes for part in (self.rgb, self.valid) if part is not None)


@dataclass
class Bands:
    """How a raster's bands become RGB and a mask."""

    indexes: list[int]  # one band (grey or palette) or three, and the alpha band last if there is one
    alpha: bool = False
    opaque: float = 255.0  # value of the alpha band where there is an image
    mask: bool = False  # GDAL keeps a mask beside the bands
    palette: np.ndarray | None = None  # (256, 4) uint8 RGBA
    low: np.ndarray | None = None  # (bands,) values shown as 0 ...
    high: np.ndarray | None = None  # ... and as 255; None for 8-bit bands
    nodata: list[float | None] = field(default_factory=list)
    nodata_rgb: tuple[int, int, int] | None = None
    tolerance: int = 0  # lossy compression blurs the no-data colour by this much


def examine_bands(source: Any, nodata_rgb: tuple[int, int, int] | None) -> Bands:
    """Which bands are red, green, blue and alpha, what means no data, and how wider values become 8 bits."""
    meaning = list(source.colorinterp)
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    if all(colour in meaning for colour in colours):
        indexes = [meaning.index(colour) + 1 for colour in colours]
    else:
        plain = [i + 1 for i, band in enumerate(meaning) if band is not ColorInterp.alpha]
        indexes = plain[:3] if len(plain) >= 3 else plain[:1] or [1]
    bands = Bands(indexes, nodata=[source.nodatavals[i - 1] for i in indexes], nodata_rgb=nodata_rgb)
    if (
        len(indexes) == 1
        and meaning[indexes[0] - 1] is ColorInterp.palette
        and (table := _colour_table(source, indexes))
    ):
        bands.palette = np.zeros((1 + max(255, *table), 4), np.uint8)
        for value, colour in table.items():
            bands.palette[value] = colour
    elif source.dtypes[indexes[0] - 1] != "uint8":
        bands.low, bands.high = _value_range(source, indexes)
    if ColorInterp.alpha in meaning:
        bands.alpha = True
        bands.indexes = [*indexes, meaning.index(ColorInterp.alpha) + 1]
        if source.dtypes[0] != "uint8":
            # A mask of 0 and 255, or of 0 and 1, beside bands of 16 bits or floats is as usual as one of their range.
            bands.opaque = float(np.nanmax(_thumbnail(source, bands.indexes[-1:]).filled(0)))
    else:
        bands.mask = MaskFlags.per_dataset in source.mask_flag_enums[0]
    lossy = str(source.compression).upper() if source.compression else source.driver.upper()
    if any(name in lossy for name in ("JPEG", "WEBP", "LERC", "JP2")):
        bands.tolerance = 8
    return bands


def _colour_table(source: Any, indexes: list[int]) -> dict[int, tuple[int, int, int, int]]:
    """The palette of a band; empty where it is called a palette and has none: its values are grey then."""
    try:
        return dict(source.colormap(indexes[0]))
    except ValueError:
        return {}


def _thumbnail(source: Any, indexes: list[int]) -> np.ma.MaskedArray:
    """(bands, h, w) values of at most 512 px a side, float64."""
    scale = max(1.0, max(source.width, source.height) / 512)
    shape = (len(indexes), max(1, int(source.height / scale)), max(1, int(source.width / scale)))
    values: np.ma.MaskedArray = source.read(indexes, out_shape=shape, masked=True).astype(np.float64)
    return values


def _value_range(source: Any, indexes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """2nd and 98th percentile of each band, from a thumbnail."""
    values = np.ma.filled(_thumbnail(source, indexes), np.nan).reshape(len(indexes), -1)
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
        valid[alpha < bands.opaque / 2] = 0
    gap, specks = _gap(data, bands.nodata, bands.tolerance), _specks(data, bands.nodata)
    if bands.palette is not None:
        rgba = bands.palette[np.clip(data[0], 0, len(bands.palette) - 1).astype(np.intp)]
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
    specks &= valid > 0
    if specks.any():
        valid[specks] = SPECK
        rgb[specks] = _surroundings(rgb, valid)[specks]
    if (valid == 255).all():
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


def _specks(data: np.ndarray, nodata: list[Any]) -> np.ndarray:
    """(h, w) bool: where a band of (bands, h, w) is NaN, or has a no-data value that can be no shadow: not 0."""
    specks = np.zeros(data.shape[1:], bool)
    if data.dtype == np.uint8:
        return specks
    for band, value in zip(data, nodata, strict=True):
        if data.dtype.kind == "f":
            specks |= ~np.isfinite(band)
        if value is not None and value != 0 and math.isfinite(value):
            specks |= band == value
    return specks


def _surroundings(rgb: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The mean of the valid pixels within 2 px of each, (h, w, 3) uint8."""
    image = (valid == 255).astype(np.float32)
    total = cv2.blur(rgb * image[..., None], (5, 5))
    return np.rint(total / np.maximum(cv2.blur(image, (5, 5)), 1e-6)[..., None]).astype(np.uint8)


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
