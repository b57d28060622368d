# SPDX-License-Identifier: Apache-2.0
"""From a logit map to a position: calibrated posterior, Hann smoothing, sub-pixel peak, confidence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np

PEAK_WINDOW_NODES = 3
"""Half-width of the window around the peak over which position and covariance are taken."""
PEAK_MASS_NODES = 5
"""Half-width of the window whose mass is the peak: about 10 m at half a metre a pixel, where a place is right."""
SECOND_MODE_NODES = 5
"""A second mode is a maximum at least this many nodes from the peak."""
CREDIBLE_MASS = 0.98
"""Share of the posterior that the covariance's 2 sigma ellipse holds."""
SMOOTHING_NODES = 3
"""Width R of the Hann window that the peak is searched under."""


@dataclass(frozen=True)
class Heatmap:
    """Posterior of the query's centre over the search map.

    probability: (H, W) float32, sums to 1; node (r, c) lies at search-map pixel-edge coordinate (r, c) * stride_px,
    where (0, 0) is the top-left corner of the top-left pixel.
    peak_xy_px: (x, y), sub-pixel, in the same coordinates. peak_covariance_px: (2, 2) of (x, y) around the peak,
    px^2: the uncertainty of the place if the peak is the right one.
    peak: probability mass around the peak, 0..1. peak_ratio: that mass over the second mode's (inf if there is none).
    entropy: 0 (one node) to 1 (uniform).
    """

    probability: np.ndarray
    stride_px: float
    peak_xy_px: tuple[float, float]
    peak_covariance_px: np.ndarray
    peak: float
    peak_ratio: float

    @cached_property
    def entropy(self) -> float:
        p = self.probability[self.probability > 0]
        return float(-(p * np.log(p)).sum() / np.log(self.probability.size))

    @cached_property
    def covariance_px(self) -> np.ndarray:
        """(2, 2) of (x, y), px^2, whether the peak is right or not: its covariance until 2 sigma hold CREDIBLE_MASS."""
        distance2 = node_distance2(self.probability.shape, self.stride_px, self.peak_xy_px, self.peak_covariance_px)
        # Quarters of a standard deviation resolve the extent of the posterior well enough.
        rings = np.ceil(4.0 * np.sqrt(distance2)).astype(np.int32).ravel()
        held = np.cumsum(np.bincount(rings, self.probability.ravel()))
        reach = float(np.searchsorted(held, CREDIBLE_MASS * held[-1])) / 4.0
        return np.asarray(self.peak_covariance_px * max(1.0, (reach / 2.0) ** 2))

    def given(self, centre_xy_px: tuple[float, float], covariance_px: np.ndarray) -> "Heatmap":
        """The posterior given a prior at centre_xy_px with covariance_px (2, 2) of (x, y), px^2."""
        distance2 = node_distance2(self.probability.shape, self.stride_px, centre_xy_px, covariance_px)
        weighted = self.probability * np.exp(-0.5 * (distance2 - distance2.min())).astype(np.float32)
        total = float(weighted.sum())
        # The posterior has no mass near the prior: the prior cannot weight it.
        return self if total <= 0.0 else heatmap_from_probability(weighted / total, self.stride_px)

    def magnified(self, px: float) -> "Heatmap":
        """Over the same map at another size, `px` pixels of which are one of this map's."""
        return replace(
            self,
            stride_px=self.stride_px * px,
            peak_xy_px=(self.peak_xy_px[0] * px, self.peak_xy_px[1] * px),
            peak_covariance_px=self.peak_covariance_px * px**2,
        )

    def mass_near(self, xy_px: tuple[float, float]) -> float:
        """Probability within the peak window around a place, 0..1."""
        row, col = round(xy_px[1] / self.stride_px), round(xy_px[0] / self.stride_px)
        return float(_window(self.probability, row, col, PEAK_MASS_NODES)[0].sum())

    def resized(self, height: int, width: int) -> np.ndarray:
        """(height, width) float32 map at full resolution, scaled so that its maximum is 1, for display."""
        rows = ((np.arange(height, dtype=np.float32) + 0.5) / self.stride_px)[:, None].repeat(width, 1)
        cols = ((np.arange(width, dtype=np.float32) + 0.5) / self.stride_px)[None].repeat(height, 0)
        full = cv2.remap(self.probability, cols, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(full / max(float(full.max()), 1e-12), np.float32)


def node_distance2(
    size: Sequence[int], stride_px: float, centre_xy_px: tuple[float, float], covariance_px: np.ndarray
) -> np.ndarray:
    """(R, C) squared Mahalanobis distances of the nodes of a heatmap of this size from a place, (x, y) in pixels."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    dx, dy = cols * stride_px - centre_xy_px[0], rows * stride_px - centre_xy_px[1]
    inverse = np.linalg.inv(covariance_px)
    return np.asarray(inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy)


@lru_cache(maxsize=32)
def hann_kernel(size: int) -> np.ndarray:
    """(size, size) float32 Hann kernel that sums to 1: an (R+2)-point window without its outer zeros."""
    window = np.hanning(size + 2)[1:-1]
    kernel = np.outer(window, window)
    return np.asarray(kernel / kernel.sum(), np.float32)


def heatmap_from_logits(logits: np.ndarray, stride_px: float, temperature: float = 1.0) -> Heatmap:
    """logits: (H, W), -inf where the map has no data; temperature: calibration of the posterior (1: as trained)."""
    scaled = logits.astype(np.float32) / temperature
    scaled -= scaled.max()
    probability = np.exp(scaled)
    return heatmap_from_probability(probability / probability.sum(), stride_px)


def heatmap_from_probability(probability: np.ndarray, stride_px: float) -> Heatmap:
    """probability: (H, W) float32, sums to 1."""
    smooth = cv2.filter2D(probability, -1, hann_kernel(SMOOTHING_NODES), borderType=cv2.BORDER_REFLECT_101)
    row, col = np.unravel_index(int(smooth.argmax()), smooth.shape)
    window, top, left = _window(probability, int(row), int(col), PEAK_WINDOW_NODES)
    mass = float(window.sum())
    rows, cols = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
    y = float((window * rows).sum() / mass)
    x = float((window * cols).sum() / mass)
    dx, dy = cols - x, rows - y
    # A twelfth of a node squared: the posterior is only known at the nodes.
    moments = np.array(
        [[(window * dx * dx).sum(), (window * dx * dy).sum()], [(window * dx * dy).sum(), (window * dy * dy).sum()]]
    )
    covariance = (moments / mass + np.eye(2) / 12) * stride_px**2
    others = smooth.copy()
    others[
        max(0, row - SECOND_MODE_NODES) : row + SECOND_MODE_NODES + 1,
        max(0, col - SECOND_MODE_NODES) : col + SECOND_MODE_NODES + 1,
    ] = 0
    second_row, second_col = np.unravel_index(int(others.argmax()), others.shape)
    second = others[second_row, second_col]
    ratio = float(smooth[row, col] / second) if second > 0 else float("inf")
    peak = min(1.0, float(_window(probability, int(row), int(col), PEAK_MASS_NODES)[0].sum()))
    return Heatmap(probability, stride_px, (x * stride_px, y * stride_px), covariance, peak, ratio)


def modes(logits: np.ndarray, stride_px: float, count: int) -> list[tuple[tuple[float, float], float]]:
    """The highest places of (R, C) logits, at least SECOND_MODE_NODES apart: ((x, y) in pixels, logit), best first."""
    rest = cv2.filter2D(logits, -1, hann_kernel(SMOOTHING_NODES), borderType=cv2.BORDER_REFLECT_101)
    found = []
    for _ in range(count):
        row, col = (int(v) for v in np.unravel_index(int(rest.argmax()), rest.shape))
        if not np.isfinite(rest[row, col]):
            break
        found.append(((col * stride_px, row * stride_px), float(rest[row, col])))
        reach = SECOND_MODE_NODES
        rest[max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1] = -np.inf
    return found


def published_heatmap(logits: np.ndarray, side_cells: int, map_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Post-processing as published (DRL paper, section V-A), to compare with the paper's figures.

    logits: (H, W); side_cells: R of the training. Returns the (map_px, map_px) float32 map of sigmoids under
    the Hann window, and the (row, col) of its maximum, the first one in case of ties.
    """
    score: np.ndarray = 0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float32))  # the sigmoid, without overflow
    if side_cells > 1:
        score = cv2.filter2D(score, -1, hann_kernel(side_cells), borderType=cv2.BORDER_REFLECT_101)
    if score.shape != (map_px, map_px):
        score = np.asarray(cv2.resize(score, (map_px, map_px), interpolation=cv2.INTER_LINEAR))
    row, col = divmod(int(score.argmax()), map_px)
    return score, (row, col)


def _window(array: np.ndarray, row: int, col: int, reach: int) -> tuple[np.ndarray, int, int]:
    top, left = max(0, row - reach), max(0, col - reach)
    return array[top : row + reach + 1, left : col + reach + 1], top, left
