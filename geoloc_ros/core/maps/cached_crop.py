# SPDX-License-Identifier: Apache-2.0
"""The map crop of a track, cut again only when it no longer contains the search area."""

import math
from dataclasses import replace

import numpy as np

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop, MapSource

GSD_BAND = (0.92, 1.04)
"""Range of a cached crop's ground sample distance, as shares of the best one: if finer, the view loses part of what the
camera saw; if coarser, its corners are empty.
"""


class CachedCrop:
    """The map crop of a track, cut again only once it no longer contains the search area.

    Engines cache a map's features (`engines.network_engine`), so with a cached crop only the view is computed.
    """

    SLACK_PX = 48
    """Added to a new crop's side."""
    LEAST_STEPS, AHEAD_STEPS = 2, 20
    """Minimum and maximum steps that a new crop reaches ahead of the frame; frames farther apart get no larger crop."""

    SOON_STEPS = 4
    """Steps that `renew` looks ahead."""
    PACE_SHARE = 0.2
    """Of the last step in the pace that `renew` goes by."""

    def __init__(self, source: MapSource, multiple_px: int, most_px: int) -> None:
        """multiple_px: of sides that the engine takes; most_px: of crops made larger than needed."""
        self._source, self._multiple_px, self._most_px = source, multiple_px, most_px
        self._crop: MapCrop | None = None
        self._place: tuple[float, float] | None = None
        self._step_m: np.ndarray | None = None
        # Of several steps: a swaying camera's views go to and fro.
        self._pace_m: np.ndarray | None = None
        self._need_px = 0

    @property
    def gsd_m(self) -> float:
        """Of the cached crop, NaN without one."""
        return math.nan if self._crop is None else self._crop.gsd_m

    def crop(self, place: tuple[float, float], need_px: int, gsd_m: float) -> MapCrop:
        """A crop that contains need_px around a place (lat_deg, lon_deg), which may be anywhere in it."""
        if self._place is not None:
            self._step_m = np.array(LocalEnu(*self._place).to_enu(*place))
            pace_m = self._step_m if self._pace_m is None else self._pace_m
            self._pace_m = pace_m + self.PACE_SHARE * (self._step_m - pace_m)
        self._place, self._need_px = place, need_px
        if self._crop is not None and self._crop.gsd_m == gsd_m and self._holds(self._crop, place, need_px):
            return self._crop
        crop = self._cut(place, gsd_m, self._step_m)
        self._crop = crop if is_usable(crop) else None
        return crop

    def renew(self) -> MapCrop | None:
        """The crop that coming frames need, cut while the cached one still serves; None while no new one is needed.

        Only where steps are short enough for crops that serve several frames.
        """
        if self._crop is None or self._place is None or self._pace_m is None:
            return None
        gsd_m = self._crop.gsd_m
        soon = moved(self._place, self.SOON_STEPS * self._pace_m)
        if not self._steps_ahead(gsd_m, self._pace_m) or self._holds(self._crop, soon, self._need_px):
            return None
        crop = self._cut(moved(self._place, self._pace_m), gsd_m, self._pace_m)
        if not is_usable(crop):
            return None
        self._crop = crop
        return crop

    @property
    def _slack_px(self) -> int:
        return math.ceil(self.SLACK_PX / self._multiple_px) * self._multiple_px

    def _steps_ahead(self, gsd_m: float, step_m: np.ndarray | None) -> float:
        """Steps that a larger crop reaches ahead; 0 if it does not pay off."""
        if step_m is None or self._need_px + self._slack_px > self._most_px:
            return 0.0
        # A pixel is left for what rounding takes.
        steps = (self._slack_px / 2 - 1.0) * gsd_m / max(float(np.abs(step_m).max()), 1e-6)
        return min(steps, self.AHEAD_STEPS) if steps >= self.LEAST_STEPS else 0.0

    def _cut(self, place: tuple[float, float], gsd_m: float, step_m: np.ndarray | None) -> MapCrop:
        """A crop for this place and some steps from it."""
        steps = self._steps_ahead(gsd_m, step_m)
        side_px = self._need_px + (self._slack_px if steps else 0)
        centre = place if step_m is None else moved(place, steps * step_m)
        crop = self._source.crop(*centre, side_px * gsd_m, side_px)
        # The quotient of size and pixels may differ from gsd_m in its last digit.
        return replace(crop, gsd_m=gsd_m)

    def _holds(self, crop: MapCrop, place: tuple[float, float], need_px: int) -> bool:
        side_px = crop.image.shape[0]
        x, y = crop.geodetic_to_pixel(*place)
        margin = need_px / 2
        return bool(margin <= min(x, y) and max(x, y) <= side_px - margin and side_px <= need_px + 2 * self.SLACK_PX)


def is_usable(crop: MapCrop) -> bool:
    return crop.status in (CropStatus.OK, CropStatus.PARTLY_COVERED)


def moved(place: tuple[float, float], offset_enu_m: np.ndarray) -> tuple[float, float]:
    lat_deg, lon_deg = LocalEnu(*place).to_geodetic(float(offset_enu_m[0]), float(offset_enu_m[1]))
    return float(lat_deg), float(lon_deg)
