# SPDX-License-Identifier: Apache-2.0
"""The DRL paper's networks with its post-processing: sigmoid, Hann window, pixel of the maximum (section V-A)."""

import dataclasses
from pathlib import Path

import numpy as np

from geoloc_models.drl.heatmap import Heatmap, published_heatmap
from geoloc_models.drl.presets import PRESETS
from geoloc_models.engines import Engine
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.weights import load_weights


class PublishedEngine(Engine):
    """A network whose loss takes every cell for itself, so that its logits are no posterior over places."""

    def __init__(self, network: NetworkEngine, side_cells: int) -> None:
        """side_cells: R of the training, which is also the width of the Hann window."""
        self._network = network
        self._side_cells = side_cells
        self.spec = dataclasses.replace(network.spec, takes_tensors=False, keeps_maps=False)

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """As NetworkEngine, of a square map; `peak` is the smoothed sigmoid's maximum, as the paper's confidence."""
        logits, _ = self._network.logits(query[None], search_map[None])
        score, (row, col) = published_heatmap(logits[0], self._side_cells, search_map.shape[0])
        total = float(score.sum())
        flat = np.full_like(score, 1.0 / score.size)
        probability = score / total if total > 0 else flat
        # A pixel stands for its top-left corner, as in the published conversion to degrees.
        found = heatmap_around(probability, 1.0, (float(col), float(row)), self._side_cells)
        return dataclasses.replace(found, peak=float(score[row, col]))


def open_network(weights: str | Path = "default", device: str = "auto") -> Engine:
    """The engine that reads these weights as they were trained; GeolocError as TorchEngine raises it."""
    network = TorchEngine(weights, device=device)
    preset = PRESETS[load_weights(weights).info.network]
    return network if preset.loss == "spatial" else PublishedEngine(network, preset.positive_cells)


def heatmap_around(probability: np.ndarray, stride_px: float, peak_xy_px: tuple[float, float], reach: int) -> Heatmap:
    """Mass, covariance and second mode about a peak that is already known, (x, y) in pixel-edge coordinates.

    probability: (H, W), sums to 1; reach: half-width in nodes of the window around its maximum that counts as the peak.
    """
    row, col = (int(i) for i in np.unravel_index(int(probability.argmax()), probability.shape))
    top, left = max(row - reach, 0), max(col - reach, 0)
    window = np.s_[top : row + reach + 1, left : col + reach + 1]
    inside = probability[window]
    y, x = np.mgrid[top : top + inside.shape[0], left : left + inside.shape[1]]
    offset = np.stack([x * stride_px - peak_xy_px[0], y * stride_px - peak_xy_px[1]], axis=-1)
    mass = float(inside.sum())
    covariance = np.einsum("rc,rci,rcj->ij", inside, offset, offset) / mass + stride_px**2 / 12 * np.eye(2)
    others = probability.copy()
    others[window] = 0.0
    second = float(others.max())
    ratio = float(probability.max()) / second if second > 0 else float("inf")
    return Heatmap(probability, stride_px, peak_xy_px, covariance, min(mass, 1.0), ratio)
