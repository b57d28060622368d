# SPDX-License-Identifier: Apache-2.0
"""Search over heading and height where they are not known well: many turned and scaled views, one map, one batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geoloc_models.datasets.homography import warp
from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.engines import Engine
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.errors import GeolocError

HEADING_STEP_DEG = 20.0
"""Between neighbouring headings of a full turn: training turns views by up to 15 degrees."""


class PoseSearch(Engine):
    """An engine that tries every given heading and scale and sums their posteriors over the map.

    The map's features are computed once for all poses. Headings are added to the view's, clockwise seen from above;
    a scale of 1.2 means that the view shows 1.2 times the ground that its height says.
    """

    def __init__(
        self, engine: NetworkEngine, headings_deg: Sequence[float] = (0.0,), scales: Sequence[float] = (1.0,)
    ) -> None:
        """GeolocError: no heading, no scale, or a scale that is not positive."""
        if not headings_deg or not scales or min(scales) <= 0:
            raise GeolocError(
                f"{len(headings_deg)} headings and scales {list(scales)} leave nothing to try: give at least one "
                "heading and positive scales"
            )
        self._engine = engine
        self._poses = [(heading, scale) for heading in headings_deg for scale in scales]
        self.spec = replace(engine.spec, takes_tensors=False, keeps_maps=False)

    @classmethod
    def all_headings(cls, engine: NetworkEngine) -> "PoseSearch":
        """For a view whose heading is unknown."""
        return cls(engine, np.arange(0.0, 360.0, HEADING_STEP_DEG).tolist())

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """As NetworkEngine.infer; the posterior of the place, whatever the pose."""
        return self.search(query, search_map)[0]

    def search(self, query: np.ndarray, search_map: np.ndarray) -> tuple[Heatmap, float, float]:
        """The posterior of the place over all poses, and the likeliest heading (degrees) and scale."""
        queries = np.stack([posed(query, heading, scale) for heading, scale in self._poses])
        logits, stride_px = self._engine.logits(queries, search_map[None])
        posterior = np.logaddexp.reduce(logits, axis=0)
        best = int(logits.max(axis=(1, 2)).argmax())
        return heatmap_from_logits(posterior, stride_px), *self._poses[best]


def posed(query: np.ndarray, heading_deg: float, scale: float) -> np.ndarray:
    """A square view as it would be north-up if its heading were off by heading_deg and its height by `scale`.

    query: (h, h, 3) uint8; what was not seen becomes the mean colour.
    """
    if heading_deg == 0.0 and scale == 1.0:
        return query
    middle = query.shape[0] / 2
    c, s = np.cos(np.deg2rad(heading_deg)) / scale, np.sin(np.deg2rad(heading_deg)) / scale
    linear = np.array([[c, s], [-s, c]])
    source_from_output = np.vstack(
        [np.column_stack([linear, np.full(2, middle) - linear @ np.full(2, middle)]), [0.0, 0.0, 1.0]]
    )
    return warp(query, source_from_output, query.shape[0])
