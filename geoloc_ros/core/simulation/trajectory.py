# SPDX-License-Identifier: Apache-2.0
"""Flights for the simulated camera: the pose of a multirotor at any time, and what its sensors record of it.

A path over the ground is flown at a set speed, slower in the bends; the vehicle leans into its accelerations
and is pushed about by gusts. Everything repeats exactly for a seed.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN
from geoloc_ros.core.simulation.simulator import CameraSimulator, Pose

GRAVITY_M_S2 = 9.81
MAX_ACCELERATION_M_S2 = 1.5
"""What a survey multirotor allows itself: 9 degrees of lean."""

PATTERNS = ("lawnmower", "loop", "line")
MAX_RATE_HZ = 1000.0


@dataclass(frozen=True)
class _Waves:
    """Smooth random function of time: a few sinusoids of unit variance together."""

    frequency_hz: np.ndarray
    phase_rad: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, low_hz: float, high_hz: float) -> "_Waves":
        frequency = np.exp(rng.uniform(math.log(low_hz), math.log(high_hz), 6))
        return cls(frequency, rng.uniform(0, 2 * math.pi, 6))

    def at(self, time_s: float) -> float:
        angle = 2 * math.pi * self.frequency_hz * time_s + self.phase_rad
        return float(np.sin(angle).sum() * math.sqrt(2 / len(angle)))


@dataclass(frozen=True)
class Trajectory:
    """A multirotor's flight along a path; `at` gives the pose at any time from 0 to `duration_s`."""

    frame: LocalEnu
    path_m: np.ndarray  # (n, 2) dense points, metres east and north of the frame's origin
    height_m: float
    speed_m_s: float
    seed: int = 0
    gust_deg: float = 1.5  # standard deviation of roll and of pitch from wind
    height_variation: float = 0.02  # standard deviation, share of the height
    _times_s: np.ndarray = field(init=False, repr=False)
    _gusts: tuple[_Waves, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (self.height_m > 0 and self.speed_m_s > 0):
            raise GeolocError(f"height {self.height_m} m and speed {self.speed_m_s} m/s must be positive")
        rng = np.random.default_rng(self.seed)
        object.__setattr__(self, "_times_s", _arrival_times_s(self.path_m, self.speed_m_s))
        waves = [_Waves.draw(rng, 0.08, 0.6) for _ in range(3)] + [_Waves.draw(rng, 0.01, 0.05)]
        object.__setattr__(self, "_gusts", tuple(waves))

    @classmethod
    def over(
        cls,
        simulator: CameraSimulator,
        pattern: str,
        height_m: float,
        speed_m_s: float,
        seed: int = 0,
        margin_m: float | None = None,
    ) -> "Trajectory":
        """Plan a pattern over the raster so that the images stay inside it.

        margin_m: distance of the path from the raster's edge; None takes the image's half diagonal on the
        ground and what ten degrees of lean add. GeolocError where the raster is too small for the height.
        """
        if not height_m > 0:
            raise GeolocError(f"height is {height_m} m; it must be positive")
        frame, (west, south, east, north) = simulator.free_area()
        reach = float(np.abs(np.linalg.norm(simulator.camera.border, axis=1)).max())
        margin = height_m * (reach + math.tan(math.radians(10.0))) if margin_m is None else margin_m
        west, south, east, north = west + margin, south + margin, east - margin, north - margin
        if east - west < 20 or north - south < 20:
            raise GeolocError(
                f"the map leaves {max(0.0, east - west):.0f} m x {max(0.0, north - south):.0f} m to fly in "
                f"at {height_m:g} m height; fly lower or take a larger map"
            )
        corners = pattern_corners(pattern, (west, south, east, north), np.random.default_rng((seed, 1)))
        return cls(frame, _rounded(corners, closed=pattern == "loop"), height_m, speed_m_s, seed)

    @property
    def duration_s(self) -> float:
        """Time from the first to the last point of the path."""
        return float(self._times_s[-1])

    def at(self, time_s: float) -> Pose:
        """Pose at a time; before the start and after the end it hovers there."""
        step_s = 0.5  # as a multirotor's controller rounds off a jump in acceleration
        before, here, after = (self._position(time_s + offset) for offset in (-step_s, 0.0, step_s))
        velocity = (after - before) / (2 * step_s)
        acceleration = (after - 2 * here + before) / step_s**2
        rotation = self._rotation(time_s, velocity, acceleration)
        later = self._rotation(time_s + 0.01, velocity, acceleration)
        turn = (later @ rotation.T - np.eye(3)) / 0.01
        lat_deg, lon_deg = self.frame.to_geodetic(float(here[0]), float(here[1]))
        return Pose(
            stamp_s=time_s,
            lat_deg=lat_deg,
            lon_deg=lon_deg,
            height_m=float(here[2]),
            rotation_enu_from_optical=rotation @ FLU_FROM_OPTICAL_DOWN,
            velocity_enu_m_s=(float(velocity[0]), float(velocity[1]), float(velocity[2])),
            angular_velocity_enu_rad_s=(float(turn[2, 1]), float(turn[0, 2]), float(turn[1, 0])),
        )

    def sample(self, rate_hz: float, start_s: float = 0.0, duration_s: float | None = None) -> Iterator[Pose]:
        """Poses at a steady rate from `start_s` to the end of the path, or for `duration_s`, the shorter."""
        if not 0 < rate_hz <= MAX_RATE_HZ:
            raise GeolocError(f"rate is {rate_hz} Hz; it must be positive and at most {MAX_RATE_HZ:g}")
        if not 0.0 <= start_s < self.duration_s:
            raise GeolocError(f"start is {start_s} s; the path takes {self.duration_s:.0f} s")
        length_s = self.duration_s - start_s
        if duration_s is not None:
            if not duration_s >= 0:
                raise GeolocError(f"duration is {duration_s} s; it must not be negative")
            length_s = min(duration_s, length_s)
        for index in range(int(length_s * rate_hz + 1e-9) + 1):
            yield self.at(start_s + index / rate_hz)

    def _position(self, time_s: float) -> np.ndarray:
        """(east, north, height) in metres."""
        east = np.interp(time_s, self._times_s, self.path_m[:, 0])
        north = np.interp(time_s, self._times_s, self.path_m[:, 1])
        height = self.height_m * (1 + self.height_variation * self._gusts[3].at(time_s))
        return np.array([east, north, height])

    def _rotation(self, time_s: float, velocity: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
        """(3, 3) ENU from FLU: nose along the track, lean from acceleration, airspeed and gusts."""
        ahead = self._position(time_s + 1.0) - self._position(time_s - 1.0)
        yaw = math.atan2(ahead[1], ahead[0]) + math.radians(2.0) * self._gusts[2].at(time_s)
        cos, sin = math.cos(yaw), math.sin(yaw)
        forward = (cos * acceleration[0] + sin * acceleration[1]) / GRAVITY_M_S2
        leftward = (-sin * acceleration[0] + cos * acceleration[1]) / GRAVITY_M_S2
        drag = math.radians(0.25) * (cos * velocity[0] + sin * velocity[1])  # nose down to hold airspeed
        gust = math.radians(self.gust_deg)
        pitch = math.atan(forward) + drag + gust * self._gusts[0].at(time_s)
        roll = -math.atan(leftward) + gust * self._gusts[1].at(time_s)
        return rotation_from_angles(roll, pitch, yaw)


class SensorNoise:
    """Slowly wandering errors of what the vehicle records: attitude, heading and height."""

    def __init__(self, attitude_deg: float, heading_deg: float, height_share: float, seed: int = 0) -> None:
        """Standard deviations over time; zero records the truth."""
        if not all(0 <= sigma < math.inf for sigma in (attitude_deg, heading_deg, height_share)):
            raise GeolocError(
                f"noise of attitude, heading and height is {attitude_deg}°, {heading_deg}° and {height_share}; "
                "each must be 0 or more"
            )
        rng = np.random.default_rng((seed, 2))
        self._sigmas = np.array([math.radians(attitude_deg)] * 2 + [math.radians(heading_deg), height_share])
        self._waves = [_Waves.draw(rng, 0.005, 0.3) for _ in self._sigmas]

    def record(self, pose: Pose) -> tuple[np.ndarray, float]:
        """(3, 3) rotation and height in metres as the vehicle's sensors give them."""
        roll, pitch, yaw, height = self._sigmas * [waves.at(pose.stamp_s) for waves in self._waves]
        turned = rotation_from_angles(0.0, 0.0, yaw) @ pose.rotation_enu_from_optical
        # A roll and pitch error turns the body, so it acts about the camera's own axes.
        error = FLU_FROM_OPTICAL_DOWN.T @ rotation_from_angles(roll, pitch, 0.0) @ FLU_FROM_OPTICAL_DOWN
        return turned @ error, pose.height_m * (1.0 + height)


def rotation_from_angles(roll_rad: float, pitch_rad: float, yaw_rad: float) -> np.ndarray:
    """(3, 3) ENU from FLU for roll, pitch and yaw about fixed x, y, z (REP-103); nose down is pitch > 0."""
    cr, sr = math.cos(roll_rad), math.sin(roll_rad)
    cp, sp = math.cos(pitch_rad), math.sin(pitch_rad)
    cy, sy = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def pattern_corners(pattern: str, bounds_m: tuple[float, float, float, float], rng: np.random.Generator) -> np.ndarray:
    """(n, 2) corners of a pattern inside (west, south, east, north)."""
    west, south, east, north = bounds_m
    width, depth = east - west, north - south
    if pattern == "line":
        # Along the longer diagonal direction, turned a little so that it follows no street of a grid.
        share = rng.uniform(0.05, 0.3)
        return np.array([[west, south + share * depth], [east, north - share * depth]])
    if pattern == "loop":
        # A closed loop through eight points around the centre at random distances.
        angle = np.arange(8) * math.pi / 4 + rng.uniform(0, math.pi / 4)
        reach = rng.uniform(0.7, 1.0, 8)
        centre = np.array([(west + east) / 2, (south + north) / 2])
        points = np.stack([np.cos(angle) * reach * width / 2, np.sin(angle) * reach * depth / 2], axis=1)
        return centre + np.concatenate([points, points[:1]])
    if pattern == "lawnmower":
        lanes = max(2, round(depth / 120.0))
        rows = np.linspace(south, north, lanes)
        ends = [(west, east) if lane % 2 == 0 else (east, west) for lane in range(lanes)]
        return np.array([[x, y] for (a, b), y in zip(ends, rows, strict=True) for x in (a, b)])
    raise GeolocError(f"pattern '{pattern}' is unknown; use one of {', '.join(PATTERNS)}")


def _rounded(corners: np.ndarray, closed: bool) -> np.ndarray:
    """Dense path, a point about every metre, along a polyline with its corners rounded by 15 m."""
    points = [corners[:1]]
    for start, end in itertools.pairwise(corners):
        count = max(1, round(float(np.linalg.norm(end - start))))
        points.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    path = np.concatenate(points)
    # Two moving averages turn corners into smooth arcs; ends are kept by extending the path beyond them.
    for _ in range(2):
        reach = min(15, len(path) // 4)
        if closed:
            padded = np.concatenate([path[-1 - reach : -1], path, path[1 : 1 + reach]])
        else:
            padded = np.concatenate([2 * path[0] - path[reach:0:-1], path, 2 * path[-1] - path[-2 : -2 - reach : -1]])
        sums = np.concatenate([np.zeros((1, 2)), np.cumsum(padded, axis=0)])
        path = (sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)
    return path


def _arrival_times_s(path_m: np.ndarray, speed_m_s: float) -> np.ndarray:
    """(n,) time at each point: the set speed, less where the bend or the way to stop asks for it."""
    steps = np.diff(path_m, axis=0)
    lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-6)
    heading = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    bend = np.zeros(len(path_m))  # 1/m
    bend[1:-1] = np.abs(np.diff(heading)) / ((lengths[1:] + lengths[:-1]) / 2)
    limit = np.minimum(speed_m_s, np.sqrt(MAX_ACCELERATION_M_S2 / np.maximum(bend, 1e-6)))
    squared = limit**2
    squared[[0, -1]] = 0.0  # from hover to hover
    for index in range(1, len(squared)):
        squared[index] = min(squared[index], squared[index - 1] + MAX_ACCELERATION_M_S2 * lengths[index - 1])
    for index in range(len(squared) - 2, -1, -1):
        squared[index] = min(squared[index], squared[index + 1] + MAX_ACCELERATION_M_S2 * lengths[index])
    speed = np.sqrt(squared)
    return np.concatenate([[0.0], np.cumsum(2 * lengths / (speed[1:] + speed[:-1]))])
