# SPDX-License-Identifier: Apache-2.0
"""One frame against one crop of the map: rectify, crop, match; no track and no gate here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.camera import RectifiedView, footprint_m, nadir_rotation, rectify
from geoloc_ros.core.flight import Frame
from geoloc_ros.core.geodesy import LocalEnu
from geoloc_ros.core.localizer_settings import LocalizerSettings
from geoloc_ros.core.maps import CropStatus, MapCrop, MapSource


@dataclass(frozen=True)
class Match:
    """One frame against one crop: the vehicle's position and its covariance in ENU, m^2, no gate passed yet.

    support: probability mass that the network alone sees at the place, 0..1.
    """

    lat_deg: float
    lon_deg: float
    covariance_enu_m2: np.ndarray
    heatmap: Heatmap
    support: float
    crop: MapCrop
    view: RectifiedView
    latencies_ms: dict[str, float]


class Refused(Exception):
    """This frame gives no fix, and why; what was already there comes along for the debug pictures.

    contradicts: the frame was clear, but places the vehicle elsewhere than the track does.
    """

    def __init__(
        self,
        reason: str,
        crop: MapCrop | None = None,
        view: RectifiedView | None = None,
        contradicts: bool = False,
    ) -> None:
        super().__init__(reason)
        self.crop, self.view, self.contradicts = crop, view, contradicts


GSD_BAND = (0.92, 1.04)
"""Shares of the best ground sample distance within which a kept crop's will do: finer, the view shows less of what the
camera saw; coarser, its corners show what it did not."""


class KeptCrop:
    """The crop that a track is followed in, cut anew only once it no longer holds what is to be searched.

    Engines keep what they have computed of a map (engines.network), so a kept crop leaves the view to be computed.
    """

    SLACK_PX = 48
    """Added to a new crop's side."""
    LEAST_STEPS, AHEAD_STEPS = 2, 20
    """A new crop lies so many steps ahead of the frame, at least and at most; farther apart frames get none larger."""

    SOON_STEPS = 4
    """`renew` looks so many steps ahead."""
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
        """Of the kept crop, NaN without one."""
        return math.nan if self._crop is None else self._crop.gsd_m

    def crop(self, place: tuple[float, float], need_px: int, gsd_m: float) -> MapCrop:
        """A crop that holds need_px about a place (lat_deg, lon_deg), which may lie anywhere in it."""
        if self._place is not None:
            self._step_m = np.array(LocalEnu(*self._place).to_enu(*place))
            pace_m = self._step_m if self._pace_m is None else self._pace_m
            self._pace_m = pace_m + self.PACE_SHARE * (self._step_m - pace_m)
        self._place, self._need_px = place, need_px
        if self._crop is not None and self._crop.gsd_m == gsd_m and self._holds(self._crop, place, need_px):
            return self._crop
        crop = self._cut(place, gsd_m, self._step_m)
        self._crop = crop if _usable(crop) else None
        return crop

    def renew(self) -> MapCrop | None:
        """The crop that frames to come need, cut while the kept one still serves; None as long as it goes on serving.

        Only where steps are short enough for crops that serve several frames.
        """
        if self._crop is None or self._place is None or self._pace_m is None:
            return None
        gsd_m = self._crop.gsd_m
        soon = moved(self._place, self.SOON_STEPS * self._pace_m)
        if not self._steps_ahead(gsd_m, self._pace_m) or self._holds(self._crop, soon, self._need_px):
            return None
        crop = self._cut(moved(self._place, self._pace_m), gsd_m, self._pace_m)
        if not _usable(crop):
            return None
        self._crop = crop
        return crop

    @property
    def _slack_px(self) -> int:
        return math.ceil(self.SLACK_PX / self._multiple_px) * self._multiple_px

    def _steps_ahead(self, gsd_m: float, step_m: np.ndarray | None) -> float:
        """How many steps a larger crop lies ahead; 0 where none is worth it."""
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
        return bool(
            margin <= min(x, y) and max(x, y) <= side_px - margin and side_px <= need_px + 2 * self.SLACK_PX
        )


def _usable(crop: MapCrop) -> bool:
    return crop.status in (CropStatus.OK, CropStatus.PARTLY_COVERED)


def match_frame(
    frame: Frame,
    centre: tuple[float, float],
    half_width_m: float,
    engine: Engine,
    map_source: MapSource,
    settings: LocalizerSettings,
    whole_views: bool = True,
    expected_enu_m2: np.ndarray | None = None,
    kept: KeptCrop | None = None,
) -> Match:
    """Find a frame in the square of +-half_width_m around `centre` (lat_deg, lon_deg), where the vehicle is expected.

    whole_views: the crop is larger by the view, so that a view centred on the edge of the square still lies on the
    map; otherwise the square is all there is. expected_enu_m2: (2, 2) covariance of the vehicle about `centre`, m^2;
    with it the heatmap is the posterior given that expectation. kept: of the frames before, on the same map; it may
    hold more than the square. Raises Refused with the reason when no position can come of it.
    """
    stages: dict[str, float] = {}
    clock = time.perf_counter()
    like_m = math.nan if kept is None else kept.gsd_m
    view, tilt_sigma = rectified_view(frame, engine, half_width_m, settings, whole_views, like_m)
    clock = lap(stages, "rectify", clock)
    offset = np.array(view.centre_offset_enu_m)
    viewed = moved(centre, offset)
    size_px = search_px(half_width_m, view, engine, whole_views)
    if kept is None:
        crop = map_source.crop(*viewed, size_px * view.gsd_m, size_px)
    else:
        crop = kept.crop(viewed, size_px, view.gsd_m)
    clock = lap(stages, "crop", clock)
    if not _usable(crop):
        raise Refused(f"no map: {crop.text}", crop, view)
    if crop.coverage < settings.min_coverage:
        raise Refused(
            f"the map covers {crop.coverage:.0%} of the search, the limit is {settings.min_coverage:.0%}",
            crop,
            view,
        )
    try:
        heatmap = engine.infer(view.pixels, crop.image)
    except GeolocError as error:
        raise Refused(str(error), crop, view) from error
    clock = lap(stages, "network", clock)
    alone = heatmap
    if expected_enu_m2 is not None:
        heatmap = alone.given(crop.geodetic_to_pixel(*viewed), flipped(expected_enu_m2) / view.gsd_m**2)
    # The heatmap places the view's centre; the vehicle is where its nadir is.
    lat_deg, lon_deg = moved(crop.pixel_to_geodetic(*heatmap.peak_xy_px), -offset)
    # The gates ask whether the peak is the right one; past them its own spread is what remains.
    covariance = flipped(heatmap.peak_covariance_px) * view.gsd_m**2
    covariance = covariance + pointing_covariance(frame.height_m, offset, tilt_sigma, settings)
    lap(stages, "post", clock)
    support = alone.mass_near(heatmap.peak_xy_px)
    return Match(lat_deg, lon_deg, covariance, heatmap, support, crop, view, stages)


def rectified_view(
    frame: Frame,
    engine: Engine,
    half_width_m: float,
    settings: LocalizerSettings,
    whole_views: bool,
    like_m: float = math.nan,
) -> tuple[RectifiedView, float]:
    """The north-up view at the ground sample distance that suits camera, network and search; tilt error in radians.

    like_m: a ground sample distance to take if it suits nearly as well, m.
    """
    if frame.problem or frame.image is None:
        raise Refused(frame.problem or "the frame has no picture")
    rotation, tilt_sigma = camera_rotation(frame, settings)
    try:
        finest, coarsest = engine.gsd_range_m
        gsd_m = footprint_m(frame.camera, rotation, frame.height_m) / engine.query_px
        gsd_m = float(np.clip(gsd_m, finest, coarsest))
        searched_px = settings.max_search_px - (engine.query_px if whole_views else 0)
        seen_m = gsd_m * engine.query_px
        least_m = max(finest, 2 * half_width_m / searched_px)
        gsd_m = max(gsd_m, least_m)
        if max(least_m, GSD_BAND[0] * gsd_m) <= like_m <= min(coarsest, GSD_BAND[1] * gsd_m):
            gsd_m = like_m
        view = _rectifier(engine)(frame.image, frame.camera, rotation, frame.height_m, gsd_m, engine.query_px)
    except GeolocError as error:
        raise Refused(str(error)) from error
    if view.coverage < settings.min_view_coverage:
        view_m = engine.query_px * gsd_m
        remedy = "fly higher or use a wider lens"
        if view_m > seen_m:
            remedy = f"a search of ±{half_width_m:.0f} m needs such a view; give a nearer prior or fly higher"
        raise Refused(
            f"the camera saw {view.coverage:.0%} of the {view_m:.0f} m view, the limit is "
            f"{settings.min_view_coverage:.0%}: {remedy}",
            view=view,
        )
    return view, tilt_sigma


def _rectifier(engine: Engine) -> Callable[..., RectifiedView]:
    """Where the engine computes on a GPU and takes its views there, they are made there."""
    if engine.device.startswith("cuda") and getattr(engine, "takes_tensors", False):
        return _device_rectifier(engine.device.split()[0])
    return rectify


@lru_cache(maxsize=4)
def _device_rectifier(device: str) -> Callable[..., RectifiedView]:
    from geoloc_ros.core.device_rectify import DeviceRectifier

    return DeviceRectifier(device)


def flipped(covariance: np.ndarray) -> np.ndarray:
    """(2, 2) of (east, north) from that of a north-up picture's (x, y), or back: y points south."""
    return covariance * np.array([[1.0, -1.0], [-1.0, 1.0]])


def camera_rotation(frame: Frame, settings: LocalizerSettings) -> tuple[np.ndarray, float]:
    """(3, 3) optical frame to ENU, straight down where no IMU tells it, and its tilt's standard deviation, radians."""
    if frame.rotation_enu_from_optical is None:
        return nadir_rotation(frame.heading_deg), math.radians(settings.sigma_nadir_deg)
    return frame.rotation_enu_from_optical, math.radians(settings.sigma_attitude_deg)


def search_px(half_width_m: float, view: RectifiedView, engine: Engine, whole_views: bool) -> int:
    """Side of the crop that holds the square of +-half_width_m, as the engine takes it."""
    side_px = 2 * half_width_m / view.gsd_m + (engine.query_px if whole_views else 0)
    if not whole_views:
        # The square is given: never larger than asked, never smaller than the query.
        return max(round(side_px), engine.query_px)
    return math.ceil(side_px / engine.map_multiple_px) * engine.map_multiple_px


def pointing_covariance(
    height_m: float, offset_m: np.ndarray, tilt_sigma: float, settings: LocalizerSettings
) -> np.ndarray:
    """What attitude, height and map errors add to the vehicle's position, ENU m^2."""
    # d(h tan t)/dt = h / cos^2 t; the view's centre lies at h tan t.
    reach2 = float(offset_m @ offset_m) / height_m**2
    tilt = (height_m * (1 + reach2) * tilt_sigma) ** 2
    scale = np.outer(offset_m, offset_m) * settings.sigma_height_share**2
    return np.eye(2) * (tilt + settings.sigma_map_m**2) + scale


def moved(place: tuple[float, float], offset_enu_m: np.ndarray) -> tuple[float, float]:
    lat_deg, lon_deg = LocalEnu(*place).to_geodetic(float(offset_enu_m[0]), float(offset_enu_m[1]))
    return float(lat_deg), float(lon_deg)


def lap(stages: dict[str, float], stage: str, start: float) -> float:
    now = time.perf_counter()
    stages[stage] = (now - start) * 1e3
    return now
