# SPDX-License-Identifier: Apache-2.0
"""One camera frame with all that the vehicle knew, and recordings of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.recording.motion import Displacement, clockwise


@dataclass(frozen=True)
class Truth:
    """Where the camera really was, and what the vehicle's report of itself lacked.

    heading_offset_deg: to be added to the reported heading, clockwise seen from above; height_scale: true height over
    the reported one. What a recording holds of attitude and height is taken as true; NaN if it is known not to be.
    """

    lat_deg: float
    lon_deg: float
    height_above_ground_m: float
    heading_offset_deg: float = 0.0
    height_scale: float = 1.0


PRIOR_RADIUS_PER_NOISE = 2.0
"""Radius (3 sigma) of a prior as a multiple of its noise."""

MIN_PRIOR_RADIUS_M = 20.0


def noisy_prior(truth: Truth, noise_m: float, seed: int) -> tuple[float, float, float]:
    """(lat_deg, lon_deg, radius_m) of a prior `noise_m` off the truth, in a direction that the seed fixes."""
    bearing = np.random.default_rng(seed).uniform(0.0, 2.0 * math.pi)
    east_m, north_m = noise_m * math.sin(bearing), noise_m * math.cos(bearing)
    lat_deg, lon_deg = LocalEnu(truth.lat_deg, truth.lon_deg).to_geodetic(east_m, north_m)
    return lat_deg, lon_deg, max(PRIOR_RADIUS_PER_NOISE * noise_m, MIN_PRIOR_RADIUS_M)


@dataclass(frozen=True)
class Frame:
    """One image with the vehicle's other data at its stamp.

    A damaged image is None and a damaged attitude is NaN throughout, so that one bad frame neither ends a
    flight nor passes for a good one; `problem` then states the fault.
    """

    image: np.ndarray | None  # (h, w, 3) uint8 RGB
    stamp_s: float
    rotation_enu_from_optical: np.ndarray | None  # (3, 3); None: the vehicle has no attitude sensor
    height_m: float  # above ground
    camera: CameraModel
    truth: Truth | None = None
    problem: str = ""
    motion: tuple[Displacement, ...] = ()  # since the frame before, in order of time, by odometry
    heading_deg: float = 0.0  # of the image's top, clockwise from north; counts without an attitude only
    # As recorded, to the last digit, for who writes them on: the image's JPEG or PNG file, and the attitude as
    # (qx, qy, qz, qw), ENU from the optical frame.
    encoded: bytes | None = None
    quaternion: tuple[float, float, float, float] | None = None


def with_heading(frame: Frame, heading_deg: float) -> Frame:
    """The frame as it is if the vehicle's heading is off by so much, degrees clockwise."""
    if heading_deg == 0.0:
        return frame
    rotation = frame.rotation_enu_from_optical
    if rotation is not None:
        turn = np.eye(3)
        turn[:2, :2] = clockwise(heading_deg)
        rotation = turn @ rotation
    return replace(
        frame,
        rotation_enu_from_optical=rotation,
        motion=tuple(step.turned(heading_deg) for step in frame.motion),
        heading_deg=frame.heading_deg + heading_deg,
    )


class Recording(Protocol):
    """A recorded flight: a flight folder or a bag."""

    camera: CameraModel

    @property
    def map_path(self) -> Path:
        """The recording's own map; GeolocError if it has none."""

    def __len__(self) -> int:
        """Number of frames."""

    def __iter__(self) -> Iterator[Frame]:
        """All frames."""

    def frames(self, first: int, stop: int) -> Iterator[Frame]:
        """Frames `first` to `stop` - 1."""

    def stamp_s(self, index: int) -> float:
        """A frame's time without reading its image."""

    def truth(self, index: int) -> Truth | None:
        """A frame's true place without reading its image; None where it is not known."""
