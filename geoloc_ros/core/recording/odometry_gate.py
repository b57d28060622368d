# SPDX-License-Identifier: Apache-2.0
"""External odometry (VIO): what cannot be true is refused, and the rest adds up to displacements between frames."""

import bisect
import math
import threading
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.motion import Displacement

MAX_GAP_S = 1.0
"""Samples further apart than this are not joined."""
ERRORS_LAST_S = 4.0
"""Time over which errors of the velocity are alike: the position drifts by sigma^2 times this per second."""
SPAN_S = 120.0
"""How long samples are kept, so that images this far apart are joined."""
NOISE_SIGMAS = 4.0
"""How much of a change of velocity its noise may explain, standard deviations of one velocity."""


@dataclass(frozen=True)
class OdometryLimits:
    """What a vehicle can do, m/s and m/s^2, and the least standard deviation of a velocity per axis, m/s."""

    max_speed_m_s: float
    max_acceleration_m_s2: float
    sigma_m_s: float


@dataclass(frozen=True)
class _Sample:
    stamp_s: float
    run: int
    moved_m: np.ndarray  # (3,) since the first sample of the run
    position_m: np.ndarray
    velocity_m_s: np.ndarray
    sigma_m_s: float


class OdometryGate:
    """Samples in the odometry's own frame; written by one thread, read by another.

    refused: how many were; reason: why the last of them was, empty if none.
    """

    def __init__(self, limits: OdometryLimits) -> None:
        self._limits = limits
        self._samples: list[_Sample] = []
        self._lock = threading.Lock()
        self._run = 0
        self.refused = 0
        self.reason = ""

    def clear(self) -> None:
        """Forget the samples, as when the clock goes back."""
        with self._lock:
            self._samples.clear()

    def add(self, stamp_s: float, position_m: np.ndarray, velocity_m_s: np.ndarray, sigma_m_s: float) -> None:
        """Take in a sample: (3,) place and velocity, and the velocity's standard deviation (NaN: unknown).

        A velocity of exactly zero is taken from the poses if those move. GeolocError if the sample is refused.
        """
        with self._lock:
            last = self._samples[-1] if self._samples else None
            if last is not None and stamp_s < last.stamp_s - SPAN_S:
                self._samples.clear()
                last = None
            if last is not None and stamp_s <= last.stamp_s:
                return
            joined = last is not None and stamp_s - last.stamp_s <= MAX_GAP_S
            if joined and not np.any(velocity_m_s) and np.isfinite(position_m).all():
                assert last is not None
                velocity_m_s = (position_m - last.position_m) / (stamp_s - last.stamp_s)
                if not (np.any(last.velocity_m_s) or np.any(last.moved_m)):
                    # The first of a run had no velocity either.
                    last = self._samples[-1] = replace(last, velocity_m_s=velocity_m_s)
            try:
                self._check(stamp_s, velocity_m_s, sigma_m_s, last if joined else None)
            except GeolocError as error:
                self.refused, self.reason = self.refused + 1, str(error)
                raise
            sigma_m_s = self._limits.sigma_m_s if math.isnan(sigma_m_s) else max(sigma_m_s, self._limits.sigma_m_s)
            moved_m = np.zeros(3)
            if joined:
                assert last is not None
                moved_m = last.moved_m + (last.velocity_m_s + velocity_m_s) / 2 * (stamp_s - last.stamp_s)
            else:
                self._run += 1
            self._samples.append(_Sample(stamp_s, self._run, moved_m, position_m, velocity_m_s, sigma_m_s))
            if self._samples[0].stamp_s < stamp_s - SPAN_S - MAX_GAP_S:
                del self._samples[: bisect.bisect_left(self._samples, stamp_s - SPAN_S, key=_stamp_s)]

    def _check(self, stamp_s: float, velocity_m_s: np.ndarray, sigma_m_s: float, last: _Sample | None) -> None:
        """GeolocError with value and limit for what no vehicle does and what is no measurement."""
        limits, speed_m_s = self._limits, float(np.linalg.norm(velocity_m_s))
        if not math.isfinite(speed_m_s):
            raise GeolocError("velocity of the odometry is not finite; check the VIO")
        if sigma_m_s > limits.max_speed_m_s:
            raise GeolocError(
                f"odometry gives its velocity a standard deviation of {sigma_m_s:.3g} m/s, the limit is "
                f"track.max_speed_m_s, {limits.max_speed_m_s:g} m/s"
            )
        if speed_m_s > limits.max_speed_m_s:
            raise GeolocError(
                f"odometry reports {speed_m_s:.3g} m/s, the limit is track.max_speed_m_s, {limits.max_speed_m_s:g} m/s"
            )
        if last is None:
            return
        change_m_s = float(np.linalg.norm(velocity_m_s - last.velocity_m_s))
        noise_m_s = NOISE_SIGMAS * last.sigma_m_s
        acceleration_m_s2 = (change_m_s - noise_m_s) / (stamp_s - last.stamp_s)
        if acceleration_m_s2 > limits.max_acceleration_m_s2:
            raise GeolocError(
                f"odometry changes by {change_m_s:.3g} m/s in {stamp_s - last.stamp_s:.2f} s, {acceleration_m_s2:.3g} "
                f"m/s^2 beyond its noise; the limit is track.max_acceleration_m_s2, {limits.max_acceleration_m_s2:g}"
            )

    def displacement(self, start_s: float, stop_s: float, rotation_enu_from_odom: np.ndarray) -> Displacement | None:
        """How far the vehicle moved between two moments, as far as samples join them; None if nothing is known."""
        with self._lock:
            samples = self._samples
            end = bisect.bisect_right(samples, stop_s, key=_stamp_s)
            if not end or stop_s - samples[end - 1].stamp_s > MAX_GAP_S:
                return None
            last = samples[end - 1]
            first = end - 1
            while first and samples[first].stamp_s > start_s and samples[first - 1].run == last.run:
                first -= 1
            used = samples[first:end]
        start_s = max(start_s, used[0].stamp_s)
        time_s = stop_s - start_s
        if time_s <= 0:
            return None
        begun_m = used[0].moved_m + used[0].velocity_m_s * (start_s - used[0].stamp_s)
        ended_m = last.moved_m + last.velocity_m_s * (stop_s - last.stamp_s)
        variance = max(sample.sigma_m_s for sample in used) ** 2 * time_s
        return Displacement(
            start_s,
            stop_s,
            (rotation_enu_from_odom @ (ended_m - begun_m))[:2],
            np.eye(2) * variance * min(time_s, ERRORS_LAST_S),
            variance * max(0.0, ERRORS_LAST_S - time_s),
        )


def _stamp_s(sample: _Sample) -> float:
    return sample.stamp_s
