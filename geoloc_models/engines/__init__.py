# SPDX-License-Identifier: Apache-2.0
"""Engines: whatever finds a view in a map."""

from typing import Any, Protocol

import numpy as np

from geoloc_models.drl.heatmap import Heatmap


class Engine(Protocol):
    """What finds a view in a map: a network's engine or a baseline."""

    weights_id: str
    device: str
    query_px: int
    map_multiple_px: int
    gsd_range_m: tuple[float, float]

    def infer(self, query: Any, search_map: np.ndarray) -> Heatmap:
        """Where the centre of `query` lies in `search_map`; (h, w, 3) uint8 RGB, same metres per pixel.

        An engine with a true `takes_tensors` takes a query that is a tensor on its device, too.
        """
        ...
