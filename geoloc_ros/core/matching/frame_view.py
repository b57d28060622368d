# SPDX-License-Identifier: Apache-2.0
"""The view of a frame: rectified at the ground sample distance that suits camera, network and search."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView, footprint_m, rectify
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.cached_crop import GSD_BAND
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame


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
        return _rectifier(engine)(frame.image, frame.camera, rotation, frame.height_m, gsd_m, engine.spec.query_px)
    except GeolocError as error:
        raise Refused(str(error)) from error


def widest_m(frame: Frame, engine: Engine, settings: LocalizerSettings) -> float:
    """The largest half-width of a search of whole views whose view the camera still sees enough of, m."""
    try:
        seen_m = footprint_m(frame.camera, camera_rotation(frame), frame.height_m)
    except GeolocError as error:
        raise Refused(str(error)) from error
    # A little less: views are tilted, and only nearly square.
    gsd_m = 0.95 * seen_m / engine.spec.query_px / math.sqrt(max(settings.gate.min_view_coverage, 0.1))
    finest, coarsest = engine.spec.gsd_range_m
    return float(np.clip(gsd_m, finest, coarsest)) * (settings.map.max_search_px - engine.spec.query_px) / 2


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
