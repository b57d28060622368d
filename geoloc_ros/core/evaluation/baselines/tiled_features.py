# SPDX-License-Identifier: Apache-2.0
"""Local features of images of any size in bounded memory: large images are taken in overlapping tiles.

A drone that lands makes this needed: at 39 m, 300 m of map are 5592 px a side at the camera's own pixel, for which
ALIKED would fill some 55 GB (1.9 kB a pixel) and SIFT 7 GB. Shrinking would blur what is matched.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TILE_PX = 1280
"""Largest side that is taken at once; ALIKED fills about 3 GB with it."""
MARGIN_PX = 128
"""What a tile shows beyond the part that it answers for, so that features there see their surroundings."""


@dataclass(frozen=True)
class Features:
    """n points of an image."""

    xy_px: np.ndarray
    """(n, 2) pixel-edge coordinates."""
    descriptors: np.ndarray
    """(n, d) float32."""
    strength: np.ndarray
    """(n,); the larger, the surer a point is found again."""


def features_in_tiles(extract: Callable[[np.ndarray], Features], image: np.ndarray, most: int) -> Features:
    """What `extract` finds in `image` (H, W, ...), at most the `most` strongest, the strongest first.

    `extract` never sees a side above TILE_PX. An image that is no larger is taken whole, its features in their order.
    """
    if max(image.shape[:2]) <= TILE_PX:
        return extract(image)
    parts = []
    for rows, cols in itertools.product(*(_spans(length) for length in image.shape[:2])):
        found = extract(image[rows.start : rows.stop, cols.start : cols.stop])
        xy = found.xy_px + np.array([cols.start, rows.start])
        own = cols.answers_for(xy[:, 0]) & rows.answers_for(xy[:, 1])
        parts.append((xy[own], found.descriptors[own], found.strength[own]))
    xy, descriptors, strength = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-strength, kind="stable")[:most]
    return Features(xy[order], descriptors[order], strength[order])


@dataclass(frozen=True)
class _Span:
    """Pixels start to stop of one axis, of which low to high are in no other span."""

    start: int
    stop: int
    low: float
    high: float

    def answers_for(self, coordinates: np.ndarray) -> np.ndarray:
        return (coordinates >= self.low) & (coordinates < self.high)


def _spans(length: int) -> list[_Span]:
    """Spans of equal size, no more than needed, each of which overlaps the next by two margins at least."""
    size = min(length, TILE_PX)
    count = max(1, math.ceil((length - 2 * MARGIN_PX) / (TILE_PX - 2 * MARGIN_PX)))
    starts = [round(start) for start in np.linspace(0, length - size, count)]
    borders = [(first + size + second) / 2 for first, second in itertools.pairwise(starts)]
    edges = [-math.inf, *borders, math.inf]
    return [
        _Span(start, start + size, low, high) for start, low, high in zip(starts, edges[:-1], edges[1:], strict=True)
    ]
