# SPDX-License-Identifier: Apache-2.0
"""Pixels of a crop from the blocks of a layer: one smooth resampling from the raster to the crop."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from geoloc_ros.core.maps.bands import Block
from geoloc_ros.core.maps.block_cache import BlockCache, BlockKey
from geoloc_ros.core.maps.layers import Level

# From a crop's pixel to the raster's: the projections involved are smooth, so that over one crop a cubic in
# x and y, fitted to 7 x 7 exactly projected points, is right to far less than a pixel.
NODES = np.linspace(-1.0, 1.0, 7)

_DEGREE = 3
_ALONE_PRODUCTS = 2**17
"""Multiplications that OpenBLAS does on the caller's thread: half of its limit."""

FIT = np.linalg.pinv(np.vander(NODES, _DEGREE + 1, increasing=True))


@lru_cache(maxsize=16)
def _powers(size_px: int) -> np.ndarray:
    """(size_px, 4) float32 powers of the pixel centres' coordinates in [-1, 1]."""
    centres = (np.arange(size_px) + 0.5) * (2.0 / size_px) - 1.0
    return np.vander(centres, _DEGREE + 1, increasing=True).astype(np.float32)


def _at_pixels(fit: np.ndarray, size_px: int) -> np.ndarray:
    """(size_px, size_px) float32 values of a (4, 4) cubic at a crop's pixel centres."""
    powers = _powers(size_px)
    left = powers @ fit.astype(np.float32)
    # Few rows at a time: a large product wakes BLAS's threads, which then spin for 20 ms on the network's cores.
    rows = max(1, _ALONE_PRODUCTS // powers.size)
    return np.concatenate([left[i : i + rows] @ powers.T for i in range(0, size_px, rows)])


@dataclass(frozen=True)
class CropPart:
    """The piece of one level of one layer that a crop shows."""

    layer: int
    index: int
    level: Level
    fit_col: np.ndarray  # (4, 4) cubic from crop to the level's pixel-edge coordinates
    fit_row: np.ndarray
    size_px: int
    window: tuple[int, int, int, int]  # left, top, right, bottom in the level

    @classmethod
    def of(
        cls, layer: int, index: int, level: Level, fit_x: np.ndarray, fit_y: np.ndarray, size_px: int
    ) -> "CropPart | None":
        """None if the crop lies outside the level."""
        fit_col, fit_row = _in_pixels(level, fit_x, fit_y)
        basis = np.vander(NODES, _DEGREE + 1, increasing=True)
        cols, rows = basis @ fit_col @ basis.T, basis @ fit_row @ basis.T
        # Averaging and interpolation look a few pixels further than the crop itself.
        margin_x, margin_y = (2.0 + 2.0 * ratio for ratio in _ratios(fit_col, fit_row, size_px))
        left = max(0, math.floor(cols.min() - margin_x))
        top = max(0, math.floor(rows.min() - margin_y))
        right = min(level.width, math.ceil(cols.max() + margin_x))
        bottom = min(level.height, math.ceil(rows.max() + margin_y))
        if left >= right or top >= bottom:
            return None
        return cls(layer, index, level, fit_col, fit_row, size_px, (left, top, right, bottom))

    def keys(self) -> list[BlockKey]:
        """The blocks that the window touches."""
        left, top, right, bottom = self.window
        height, width = self.level.block_height, self.level.block_width
        return [
            BlockKey(self.layer, self.index, row, col)
            for row in range(top // height, (bottom - 1) // height + 1)
            for col in range(left // width, (right - 1) // width + 1)
        ]

    def draw(self, image: np.ndarray, covered: np.ndarray, cache: BlockCache, deadline: float) -> bool:
        """Paint the pixels of `image` that are not yet `covered`; True once all are."""
        rgb, valid = self._mosaic(cache.get(self.keys(), deadline))
        if rgb is None:
            return False
        left, top, right, bottom = self.window
        col, row = (_at_pixels(fit, self.size_px) for fit in self._shifted(left, top))
        inside = None
        if min(col.min(), row.min()) < 0 or col.max() > right - left or row.max() > bottom - top:
            # The window is cut off only where the level ends.
            inside = (col >= 0) & (row >= 0) & (col <= right - left) & (row <= bottom - top)
        # A pixel of the crop may be larger than all of the level.
        extent = (right - left, bottom - top)
        ratios = _ratios(self.fit_col, self.fit_row, self.size_px)
        shrink = [max(1, min(round(ratio), most)) for ratio, most in zip(ratios, extent, strict=True)]
        if max(shrink) > 1:
            rgb, valid = _shrunk(rgb, shrink), None if valid is None else _shrunk(valid, shrink)
            col, row = col / np.float32(shrink[0]), row / np.float32(shrink[1])
        col -= np.float32(0.5)  # OpenCV counts from the pixel's centre
        row -= np.float32(0.5)
        if inside is None and valid is None and not covered.any():
            cv2.remap(rgb, col, row, cv2.INTER_LINEAR, dst=image, borderMode=cv2.BORDER_REPLICATE)
            covered[:] = 255
            return True
        drawn = cv2.remap(rgb, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        new = covered == 0
        if inside is not None:
            new &= inside
        if valid is not None:
            # A pixel mixed with no-data is not drawn.
            new &= cv2.remap(valid, col, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) == 255
        image[new] = drawn[new]
        covered[new] = 255
        return bool(covered.all())

    def _shifted(self, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
        """The cubics relative to the window's corner."""
        fit_col, fit_row = self.fit_col.copy(), self.fit_row.copy()
        fit_col[0, 0] -= left
        fit_row[0, 0] -= top
        return fit_col, fit_row

    def _mosaic(self, blocks: dict[BlockKey, Block]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The window's pixels and their validity (None: all valid); (None, None) if it holds nothing."""
        if all(block.rgb is None for block in blocks.values()):
            return None, None
        left, top, right, bottom = self.window
        rgb = np.empty((bottom - top, right - left, 3), np.uint8)
        valid = None
        if any(block.rgb is None or block.valid is not None for block in blocks.values()):
            valid = np.zeros(rgb.shape[:2], np.uint8)
        for key, block in blocks.items():
            x, y = key.col * self.level.block_width - left, key.row * self.level.block_height - top
            target = (
                slice(max(0, y), min(bottom - top, y + self.level.block_height)),
                slice(max(0, x), min(right - left, x + self.level.block_width)),
            )
            source = tuple(
                slice(part.start - start, part.stop - start) for part, start in zip(target, (y, x), strict=True)
            )
            if block.rgb is None:
                rgb[target] = 0
                continue
            rgb[target] = block.rgb[source]
            if valid is not None:
                valid[target] = 255 if block.valid is None else block.valid[source]
        return rgb, valid


def _in_pixels(level: Level, fit_x: np.ndarray, fit_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cubics in CRS coordinates to cubics in the level's columns and rows."""
    inverse = ~level.crs_from_pixel
    fit_col = inverse.a * fit_x + inverse.b * fit_y
    fit_row = inverse.d * fit_x + inverse.e * fit_y
    fit_col[0, 0] += inverse.c
    fit_row[0, 0] += inverse.f
    return fit_col, fit_row


def _ratios(fit_col: np.ndarray, fit_row: np.ndarray, size_px: int) -> tuple[float, float]:
    """How many of the level's columns and rows one pixel of the crop spans, at the crop's centre."""
    scale = 2.0 / size_px
    return scale * math.hypot(fit_col[0, 1], fit_col[1, 0]), scale * math.hypot(fit_row[0, 1], fit_row[1, 0])


def level_for(levels: list[Level], fit_x: np.ndarray, fit_y: np.ndarray, size_px: int) -> int:
    """The coarsest level whose pixels are no coarser than 1.25 of the crop's."""
    best = 0
    for index, level in enumerate(levels):
        if min(_ratios(*_in_pixels(level, fit_x, fit_y), size_px)) >= 0.8:
            best = index
    return best


def _shrunk(pixels: np.ndarray, shrink: list[int]) -> np.ndarray:
    """Mean over shrink[0] columns and shrink[1] rows; an incomplete last one is repeated to full."""
    height, width = pixels.shape[:2]
    pad_x, pad_y = -width % shrink[0], -height % shrink[1]
    if pad_x or pad_y:
        pixels = cv2.copyMakeBorder(pixels, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
    size = (pixels.shape[1] // shrink[0], pixels.shape[0] // shrink[1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def fill_uncovered(image: np.ndarray, covered: np.ndarray, coverage: float) -> None:
    """Give uncovered pixels the mean colour of the covered ones, as in training; grey if there are none."""
    if coverage == 1.0:
        return
    mean = cv2.mean(image, mask=covered)[:3] if coverage > 0.0 else (127.0,) * 3
    image[covered == 0] = np.rint(mean).astype(np.uint8)
