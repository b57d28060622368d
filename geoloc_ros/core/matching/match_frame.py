# SPDX-License-Identifier: Apache-2.0
"""One view against one crop of the map: the match, and with it the vehicle. The gates are in gates.py."""

import math
from dataclasses import dataclass

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.maps.cached_crop import moved
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
