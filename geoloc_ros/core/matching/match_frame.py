# SPDX-License-Identifier: Apache-2.0
"""One frame against one crop of the map: rectify, crop, match; no track and no gate here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView, footprint_m, rectify
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.cached_crop import GSD_BAND, CachedCrop, is_usable, moved
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame


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


def match_frame(
    frame: Frame,
    centre: tuple[float, float],
    half_width_m: float,
    engine: Engine,
    map_source: MapSource,
    settings: LocalizerSettings,
    whole_views: bool = True,
    expected_enu_m2: np.ndarray | None = None,
    kept: CachedCrop | None = None,
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
    if not is_usable(crop):
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
    from geoloc_ros.core.geometry.rectify_gpu import DeviceRectifier

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


def lap(stages: dict[str, float], stage: str, start: float) -> float:
    now = time.perf_counter()
    stages[stage] = (now - start) * 1e3
    return now
