# SPDX-License-Identifier: Apache-2.0
"""One frame against one crop of the map, step by step: rectify, crop, match. The gates are in gates.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView, footprint_m, rectify
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.cached_crop import GSD_BAND, moved
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.recording.frame import Frame


@dataclass(frozen=True)
class Match:
    """One frame against one crop: the vehicle's position and its covariance in ENU, m^2, before any gate.

    heatmap: over the crop, given the track if one was expected there. support: probability mass that the network alone
    sees at the place, 0..1.
    """

    lat_deg: float
    lon_deg: float
    covariance_enu_m2: np.ndarray
    heatmap: Heatmap
    support: float
    crop: MapCrop


def rectified_view(
    frame: Frame,
    engine: Engine,
    half_width_m: float,
    settings: LocalizerSettings,
    whole_views: bool = True,
    like_m: float = math.nan,
) -> RectifiedView:
    """The north-up view at the ground sample distance that suits camera, network and search.

    half_width_m, whole_views: of the search, as in `search_px`. like_m: a ground sample distance to take if it suits
    nearly as well, m. Raises Refused for a frame that gives no view.
    """
    if frame.problem or frame.image is None:
        raise Refused(frame.problem or "the frame has no image")
    rotation = camera_rotation(frame)
    try:
        finest, coarsest = engine.spec.gsd_range_m
        gsd_m = footprint_m(frame.camera, rotation, frame.height_m) / engine.spec.query_px
        gsd_m = float(np.clip(gsd_m, finest, coarsest))
        searched_px = settings.map.max_search_px - (engine.spec.query_px if whole_views else 0)
        least_m = max(finest, 2 * half_width_m / searched_px)
        gsd_m = max(gsd_m, least_m)
        if max(least_m, GSD_BAND[0] * gsd_m) <= like_m <= min(coarsest, GSD_BAND[1] * gsd_m):
            gsd_m = like_m
        return _rectifier(engine)(
            frame.image, frame.camera, rotation, frame.height_m, gsd_m, engine.spec.query_px
        )
    except GeolocError as error:
        raise Refused(str(error)) from error


def _rectifier(engine: Engine) -> Callable[..., RectifiedView]:
    """If the engine computes on a GPU and takes its views there, they are made there."""
    if engine.spec.takes_tensors and engine.spec.device.startswith("cuda"):
        return _device_rectifier(engine.spec.device)
    return rectify


@lru_cache(maxsize=4)
def _device_rectifier(device: str) -> Callable[..., RectifiedView]:
    from geoloc_ros.core.geometry.rectify_gpu import DeviceRectifier

    return DeviceRectifier(device)


def camera_rotation(frame: Frame) -> np.ndarray:
    """(3, 3) optical frame to ENU; straight down if no IMU gives it."""
    if frame.rotation_enu_from_optical is None:
        return nadir_rotation(frame.heading_deg)
    return frame.rotation_enu_from_optical


def search_px(half_width_m: float, view: RectifiedView, engine: Engine) -> int:
    """Side of the crop in which a whole view centred anywhere in the square of +-half_width_m lies on the map."""
    side_px = 2 * half_width_m / view.gsd_m + engine.spec.query_px
    return math.ceil(side_px / engine.spec.map_multiple_px) * engine.spec.map_multiple_px


def match_view(
    frame: Frame,
    view: RectifiedView,
    crop: MapCrop,
    engine: Engine,
    settings: LocalizerSettings,
    times: StageTimes,
    expected: tuple[tuple[float, float], np.ndarray] | None = None,
) -> Match:
    """Find the view on the crop, and with it the vehicle.

    expected: predicted position (lat_deg, lon_deg) of the vehicle and its covariance (2, 2), ENU m^2; the heatmap is
    then the posterior given that prediction. times: gets the stages `network` and `post`. Raises Refused if the engine
    cannot answer.
    """
    try:
        alone = heatmap = engine.infer(view.pixels, crop.image)
    except GeolocError as error:
        raise Refused(str(error)) from error
    times.lap("network")
    offset = np.array(view.centre_offset_enu_m)
    if expected is not None:
        place, spread = expected
        viewed_px = crop.geodetic_to_pixel(*moved(place, offset))
        heatmap = alone.given(viewed_px, flipped(spread) / view.gsd_m**2)
    # The heatmap places the view's centre; the vehicle is above its nadir.
    lat_deg, lon_deg = moved(crop.pixel_to_geodetic(*heatmap.peak_xy_px), -offset)
    # The gates ask whether the peak is the right one; past them its own spread is what remains.
    covariance = flipped(heatmap.peak_covariance_px) * view.gsd_m**2
    covariance = covariance + pointing_covariance(frame, offset, settings)
    support = alone.mass_near(heatmap.peak_xy_px)
    times.lap("post")
    return Match(lat_deg, lon_deg, covariance, heatmap, support, crop)


def flipped(covariance: np.ndarray) -> np.ndarray:
    """(2, 2) of (east, north) from that of a north-up image's (x, y), or back: y points south."""
    return covariance * np.array([[1.0, -1.0], [-1.0, 1.0]])


def pointing_covariance(frame: Frame, offset_m: np.ndarray, settings: LocalizerSettings) -> np.ndarray:
    """(2, 2) what errors of attitude, height and map add to the vehicle's position, ENU m^2.

    offset_m: the view's centre from the vehicle's nadir, east and north.
    """
    pose = settings.pose
    level = frame.rotation_enu_from_optical is None
    tilt_sigma = math.radians(pose.sigma_nadir_deg if level else pose.sigma_attitude_deg)
    # d(h tan t)/dt = h / cos^2 t; the view's centre lies at h tan t.
    reach2 = float(offset_m @ offset_m) / frame.height_m**2
    tilt = (frame.height_m * (1 + reach2) * tilt_sigma) ** 2
    scale = np.outer(offset_m, offset_m) * pose.sigma_height_share**2
    return np.eye(2) * (tilt + settings.map.sigma_m**2) + scale
