# SPDX-License-Identifier: Apache-2.0
"""Decides when a track is lost: a score that frames without a fix raise and accepted fixes lower."""

import math

from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.matching.settings import TrackSettings


class TrackLoss:
    """The loss score of a track, s.

    A frame without a fix adds the time since the last frame; one whose heatmap is spread out (max_entropy) adds more,
    because the place is unlikely to be in the search map, and one that clearly contradicts the track adds most. A fix
    lowers the score gradually, so that one lucky fix among misses does not keep a wrong track.
    """

    def __init__(self, settings: TrackSettings) -> None:
        self._settings = settings
        self.score_s = 0.0
        self.misses = 0
        self._contradicted_s = 0.0
        self._stamp_s = math.nan

    def miss(self, stamp_s: float, heatmap: Heatmap | None, contradicts: bool) -> None:
        """A frame gave no fix; heatmap: None if it got none. contradicts: it is clear, but off the track."""
        s = self._settings
        rate = 1.0
        if contradicts:
            rate = s.loss_rate_contradicted
        elif heatmap is not None and heatmap.entropy > s.max_entropy:
            rate = s.loss_rate_diffuse
        added_s = rate * self._elapsed_s(stamp_s)
        self.score_s += added_s
        self._contradicted_s += added_s if contradicts else 0.0
        self.misses += 1

    def skip(self, stamp_s: float) -> None:
        """A frame was not matched at all (damaged, of one colour, of another size, no map): no evidence."""
        self._elapsed_s(stamp_s)

    def fix(self, stamp_s: float) -> None:
        """A fix was accepted."""
        self.score_s = max(0.0, self.score_s - self._settings.loss_relief * self._elapsed_s(stamp_s))
        self.misses = 0
        self._contradicted_s = 0.0

    @property
    def is_contradicted(self) -> bool:
        """Whether most of the score comes from frames that place the vehicle elsewhere."""
        return self._contradicted_s > self.score_s / 2

    def exceeds(self, limit_s: float) -> bool:
        """Whether enough consecutive misses have raised the score above the limit."""
        return self.score_s > limit_s and self.misses >= self._settings.lost_after_misses

    def _elapsed_s(self, stamp_s: float) -> float:
        last, self._stamp_s = self._stamp_s, stamp_s
        return 0.0 if math.isnan(last) else max(0.0, stamp_s - last)
