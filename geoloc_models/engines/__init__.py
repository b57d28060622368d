# SPDX-License-Identifier: Apache-2.0
"""Engines: whatever finds a view in a map."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from geoloc_models.drl.heatmap import Heatmap


@dataclass(frozen=True)
class EngineSpec:
    """What an engine computes with and how it is to be fed."""

    weights_id: str
    device: str
    """Where it computes, as PyTorch names it: "cpu", "cuda:0"."""
    query_px: int
    """Side of the view that it expects."""
    map_multiple_px: int
    """Search maps whose sides are multiples of it need no padding."""
    gsd_range_m: tuple[float, float]
    """Least and largest ground sample distance that it was trained for, metres per pixel."""
    name: str = ""
    """Runtime and arithmetic, such as "torch-float32"; empty where there is no choice."""
    takes_tensors: bool = False
    """Whether a view may be a tensor on `device`."""
    keeps_maps: bool = False
    """Whether it caches features of the maps that it has seen, which `prepare` computes ahead."""

    @property
    def label(self) -> str:
        """Device and name, for status messages and tables."""
        return f"{self.device} ({self.name})" if self.name else self.device


class Engine(Protocol):
    """What finds a view in a map: a network's engine or a baseline."""

    spec: EngineSpec

    def infer(self, query: Any, search_map: np.ndarray) -> Heatmap:
        """Where the centre of `query` lies in `search_map`; (h, w, 3) uint8 RGB, same metres per pixel.

        An engine with `spec.takes_tensors` also takes a query that is a tensor on its device.
        """
        ...

    def prepare(self, search_map: np.ndarray) -> None:
        """Compute now what is cached of a map (H, W, 3) that views of the last one's size will be searched in."""
        return
