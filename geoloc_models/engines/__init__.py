# SPDX-License-Identifier: Apache-2.0
"""Engines: whatever finds a view in a map."""

from typing import Protocol

import numpy as np

from geoloc_models.drl.heatmap import Heatmap


class Engine(Protocol):
    """What finds a view in a map: a network's engine or a baseline."""

    weights_id: str
    device: str
    query_px: int
    map_multiple_px: int
    gsd_range_m: tuple[float, float]

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """Where the centre of `query` lies in `search_map`; (h, w, 3) uint8 RGB, same metres per pixel."""
        ...
