# SPDX-License-Identifier: Apache-2.0
"""Engines: whatever finds a view in a map."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from geoloc_models.drl.alignment import Alignment
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


@dataclass(frozen=True)
class Placement:
    """Where and how a view lies on a map, over all poses that were tried.

    heatmap: of the pose that fits best, given a prior if there was one. alignment: relative to the view as it was
    given, so that its heading and scale contain those of the pose that was found; None where the view could not be
    aligned, and the heatmap's peak is all there is. alone: the heatmap without a prior, where there was one.
    log_odds: natural logarithm of how much likelier the place is than the next one that a search over poses found; inf
    without a search.
    """

    heatmap: Heatmap
    alignment: Alignment | None = None
    alone: Heatmap | None = None
    log_odds: float = math.inf

    @property
    def centre_xy_px(self) -> tuple[float, float]:
        """(x, y) of the view's centre on the map, pixel edges."""
        return self.heatmap.peak_xy_px if self.alignment is None else self.alignment.centre_xy_px

    @property
    def covariance_px(self) -> np.ndarray:
        """(2, 2) of the centre, px^2, if the place is the right one."""
        if self.alignment is None:
            return self.heatmap.peak_covariance_px
        return np.asarray(self.alignment.covariance[:2, :2])


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
