# SPDX-License-Identifier: Apache-2.0
"""Decides when a track is lost: doubt that frames without a fix add to and accepted fixes take away."""

from __future__ import annotations

import math

from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.matching.settings import LocalizerSettings


class Doubt:
    """Seconds of doubt about a track.

    A frame without a fix adds the time since the last frame; one whose heatmap is spread out (max_entropy) adds more,
    for the place is hardly in the search map, and one that clearly contradicts the track most. A fix takes time away
    but not all at once, so that a lucky one among misses does not keep a wrong track.
    """

    def __init__(self, settings: LocalizerSettings) -> None:
        self._settings = settings
        self.seconds = 0.0
        self.misses = 0
        self._stamp_s = math.nan

    def miss(self, stamp_s: float, heatmap: Heatmap | None, contradicts: bool) -> None:
        """A frame gave no fix: too low a peak or ratio (its heatmap), no heatmap (None), or one off the track."""
        s = self._settings
        rate = 1.0
        if contradicts:
            rate = s.doubt_contradicted
        elif heatmap is not None and heatmap.entropy > s.max_entropy:
            rate = s.doubt_diffuse
        self.seconds += rate * self._elapsed_s(stamp_s)
        self.misses += 1

    def fix(self, stamp_s: float) -> None:
        """A fix was accepted."""
        self.seconds = max(0.0, self.seconds - self._settings.doubt_relief * self._elapsed_s(stamp_s))
        self.misses = 0

    def is_lost(self, limit_s: float) -> bool:
        """Whether misses in a row have come to so much doubt."""
        return self.seconds > limit_s and self.misses >= self._settings.lost_after_misses

    def _elapsed_s(self, stamp_s: float) -> float:
        last, self._stamp_s = self._stamp_s, stamp_s
        return 0.0 if math.isnan(last) else max(0.0, stamp_s - last)
