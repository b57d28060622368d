# SPDX-License-Identifier: Apache-2.0
"""The motion that the track goes on by: the vehicle's odometry where images agree with it, else that of the images."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.matching.pose_bias import PoseBias, attitude_sigma_rad
from geoloc_ros.core.matching.settings import PoseSettings
from geoloc_ros.core.odometry.visual_odometry import RELIEF, Increment, VisualOdometry, odometry_view
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.motion import Displacement

ATTITUDE_TIME_S = 10.0
"""Time over which errors of roll and pitch vary."""
RELIEF_LENGTH_M = 500.0
"""Distance over which the ground's height above or below the plane varies."""
MAX_SIGMAS = 4.0
"""Difference from the images, standard deviations, above which odometry is refused."""
LEAST_DIFFERENCE_M_S = 1.0
"""Difference that never refuses it: clocks and lever arms make as much."""


@dataclass(frozen=True)
class MotionUse:
    """source: what moves the track on: "odom", "visual", or "none" for constant velocity. refused: why another or none
    was left out, empty where nothing was. ms: processing time of the images' odometry.
    """

    source: str = "none"
    refused: str = ""
    ms: float = math.nan


class OwnMotion:
    """Adds to each frame how the vehicle moved since the one before."""

    def __init__(self, settings: PoseSettings) -> None:
        self._settings = settings
        self._odometry = VisualOdometry()

    def add_to(self, frame: Frame, bias: PoseBias | None) -> tuple[Frame, MotionUse]:
        """The frame with the motion to use, in the heading that the vehicle reports, and what was used.

        bias: what the track has learned of the reported pose, None for nothing.
        """
        start = time.perf_counter()
        own, refused = self._seen(frame, bias)
        ms = (time.perf_counter() - start) * 1e3
        if not frame.motion:
            return (frame, MotionUse("none", refused, ms)) if own is None else (_moved(frame, own), _visual("", ms))
        difference = "" if own is None else _difference(frame.motion, own)
        if own is not None and difference:
            return _moved(frame, own), _visual(difference, ms)
        return frame, MotionUse("odom", refused, ms)

    def _seen(self, frame: Frame, bias: PoseBias | None) -> tuple[Displacement | None, str]:
        """What the images show, or why they show nothing."""
        if frame.image is None or frame.problem:
            return None, f"visual: {frame.problem or 'the frame has no image'}"
        try:
            view = odometry_view(frame)
        except GeolocError as error:
            return None, f"visual: {error}"
        reported = frame.rotation_enu_from_optical is not None
        increment = self._odometry.process(view, frame.stamp_s, reported)
        if increment.reason:
            return None, f"visual: {increment.reason}"
        return self._displacement(frame, increment, bias), ""

    def _displacement(self, frame: Frame, increment: Increment, bias: PoseBias | None) -> Displacement:
        """In metres by the height that the track has learned, with what attitude, bias and relief add to its error."""
        scale = 1.0 if bias is None else math.exp(bias.log_height_scale)
        moved = increment.displacement_enu_m * scale
        distance2 = float(moved @ moved)
        elapsed_s = increment.stamp_s - increment.since_s
        swing_m = frame.height_m * scale * attitude_sigma_rad(frame, self._settings)
        variance = 2 * swing_m**2 * -math.expm1(-elapsed_s / ATTITUDE_TIME_S)
        if bias is None:
            share2 = self._settings.bias_height_share**2 + math.radians(self._settings.bias_heading_deg) ** 2
        else:
            share2 = float(bias.covariance[0, 0] + bias.covariance[1, 1])
        covariance = increment.covariance[:2, :2] * scale**2 + np.eye(2) * (variance + share2 * distance2)
        drift_m2 = RELIEF**2 * RELIEF_LENGTH_M * math.sqrt(distance2)
        return Displacement(increment.since_s, increment.stamp_s, moved, covariance, drift_m2, "visual")


def _moved(frame: Frame, own: Displacement) -> Frame:
    return replace(frame, motion=(own,))


def _visual(refused: str, ms: float) -> MotionUse:
    return MotionUse("visual", refused, ms)


def _difference(motion: tuple[Displacement, ...], own: Displacement) -> str:
    """Why odometry contradicts the images; empty if it does not."""
    time_s = sum(step.stop_s - step.start_s for step in motion)
    own_s = own.stop_s - own.start_s
    if time_s <= 0 or own_s <= 0:
        return ""
    moved = sum((step.enu_m for step in motion), np.zeros(2))
    noise = sum((step.covariance_enu_m2 for step in motion), np.zeros((2, 2))) / time_s**2
    noise = noise + (own.covariance_enu_m2 + np.eye(2) * own.drift_m2) / own_s**2
    off_m_s = float(np.linalg.norm(moved / time_s - own.enu_m / own_s))
    sigma_m_s = math.sqrt(float(np.linalg.eigvalsh(noise)[-1]))
    if off_m_s <= max(MAX_SIGMAS * sigma_m_s, LEAST_DIFFERENCE_M_S):
        return ""
    return f"odom: {off_m_s:.1f} m/s off what the images show, known to {sigma_m_s:.1f} m/s"
