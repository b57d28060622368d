# SPDX-License-Identifier: Apache-2.0
"""One view against one crop of the map: the match, and with it the vehicle. The gates are in gates.py."""

import math
from dataclasses import dataclass

import numpy as np

from geoloc_models.drl.alignment import Alignment, PoseSpread
from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, Placement
from geoloc_models.engines.placer import Placer, Prior
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView, view_centre_m
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.frame_view import camera_rotation
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter, attitude_sigma_rad
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.recording.frame import Frame

LEARNING_EVIDENCE = 18.0
"""Evidence of an alignment from which the bias is learned: of held-out pairs 5 % of the wrong places have more."""
MIN_HEADING_RAD, MIN_LOG_SCALE = math.radians(1.5), 0.015
"""Least spread of a pose that an alignment starts from: attitude and relief vary from frame to frame."""


@dataclass(frozen=True)
class Match:
    """One frame against one crop: the vehicle's position and its covariance in ENU, m^2, before any gate.

    heatmap: over the crop, given the track if one was expected there. support: probability mass that the network alone
    sees at the place, 0..1. alignment: of the view, None if the engine has none or its support is too small to use.
    agreement: its support, NaN if the engine has none. log_odds: against the next place (Placement). bias: what is
    wrong with the vehicle's pose as this frame corrects it.
    """

    lat_deg: float
    lon_deg: float
    covariance_enu_m2: np.ndarray
    heatmap: Heatmap
    support: float
    crop: MapCrop
    alignment: Alignment | None = None
    agreement: float = math.nan
    log_odds: float = math.inf
    bias: PoseBiasFilter | None = None


def match_view(
    reported: Frame,
    view: RectifiedView,
    crop: MapCrop,
    engine: Engine,
    settings: LocalizerSettings,
    times: StageTimes,
    bias: PoseBiasFilter | None = None,
    expected: tuple[tuple[float, float], np.ndarray] | None = None,
) -> Match:
    """Find the view on the crop, and with it the vehicle.

    bias: what is known to be wrong with the reported frame's pose, None if nothing is; the view must be made with it.
    expected: predicted position (lat_deg, lon_deg) of the vehicle and its covariance (2, 2), ENU m^2; the heatmap is
    then the posterior given that prediction. times: gets the stages `network` and `post`. Raises Refused if the engine
    cannot answer.
    """
    bias = bias or PoseBiasFilter(settings.pose)
    frame = bias.corrected(reported)
    offset = np.array(view.centre_offset_enu_m)
    prior = None
    if expected is not None:
        place, spread = expected
        prior = Prior(crop.geodetic_to_pixel(*moved(place, offset)), flipped(spread) / view.gsd_m**2)
    placement = _placement(frame, view, crop, engine, settings, bias, prior)
    times.lap("network")
    match = placed(reported, view.gsd_m, offset, crop, placement, bias, settings)
    times.lap("post")
    return match


def placed(
    reported: Frame,
    gsd_m: float,
    offset: np.ndarray,
    crop: MapCrop,
    placement: Placement,
    bias: PoseBiasFilter,
    settings: LocalizerSettings,
) -> Match:
    """The vehicle by where and how its view lies on the crop.

    gsd_m: of view and crop. offset: the view's centre from the vehicle, east and north, m. bias: of the pose that the
    view was made with.
    """
    frame = bias.corrected(reported)
    heatmap, alone, alignment = placement.heatmap, placement.alone or placement.heatmap, placement.alignment
    support = alone.mass_near(heatmap.peak_xy_px)
    agreement = math.nan if alignment is None else alignment.support
    if alignment is not None and agreement < settings.gate.min_alignment:
        alignment = None
    if alignment is not None and alignment.evidence >= LEARNING_EVIDENCE:
        # What the view shows of its own pose counts before the place is read: the vehicle is above its nadir.
        bias = bias.copy()
        bias.update(frame, alignment, gsd_m)
        frame = bias.corrected(reported)
        offset = view_centre_m(frame.camera, camera_rotation(frame), frame.height_m)
    xy_px = heatmap.peak_xy_px if alignment is None else alignment.centre_xy_px
    within = heatmap.peak_covariance_px if alignment is None else alignment.covariance[:2, :2]
    lat_deg, lon_deg = moved(crop.pixel_to_geodetic(*xy_px), -offset)
    # The gates ask whether the peak is the right one; past them its own spread is what remains.
    covariance = flipped(within) * gsd_m**2 + bias.pointing_covariance(frame, offset, settings.pose)
    covariance = covariance + np.eye(2) * settings.map.sigma_m**2
    return Match(lat_deg, lon_deg, covariance, heatmap, support, crop, alignment, agreement, placement.log_odds, bias)


def _placement(
    frame: Frame,
    view: RectifiedView,
    crop: MapCrop,
    engine: Engine,
    settings: LocalizerSettings,
    bias: PoseBiasFilter,
    prior: Prior | None,
) -> Placement:
    """What the engine finds, aligned if it can be."""
    try:
        if isinstance(engine, Placer):
            return engine.place(view.pixels, crop.image, pose_spread(bias, frame, view.gsd_m, settings), prior)
        alone = heatmap = engine.infer(view.pixels, crop.image)
    except GeolocError as error:
        raise Refused(str(error)) from error
    if prior is not None:
        heatmap = alone.given(prior.xy_px, prior.covariance_px)
    return Placement(heatmap, alone=alone)


def pose_spread(bias: PoseBiasFilter, frame: Frame, gsd_m: float, settings: LocalizerSettings) -> PoseSpread:
    """How well a corrected frame's pose is known, for the alignment of its view."""
    heading, scale, *boresight = np.sqrt(np.diag(bias.bias.covariance)).tolist()
    tilt_rad = math.hypot(*boresight, attitude_sigma_rad(frame, settings.pose))
    return PoseSpread(max(heading, MIN_HEADING_RAD), max(scale, MIN_LOG_SCALE), tilt_rad * gsd_m / frame.height_m)


def flipped(covariance: np.ndarray) -> np.ndarray:
    """(2, 2) of (east, north) from that of a north-up image's (x, y), or back: y points south."""
    return covariance * np.array([[1.0, -1.0], [-1.0, 1.0]])
