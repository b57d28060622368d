# SPDX-License-Identifier: Apache-2.0
"""Constant-velocity Kalman filter of the vehicle's position in a local ENU frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.recording.motion import Displacement

RE_ORIGIN_M = 20_000.0
"""Beyond this distance from its origin the local frame is laid anew: its plane leaves the ellipsoid."""

_MEASURE = np.eye(2, 4)
_MEASURE_STEP = np.hstack([np.eye(2, 4), -np.eye(2)])


@dataclass(frozen=True)
class Track:
    """Filtered state: WGS84 degrees, velocity ENU m/s, (4, 4) covariance of (east, north, v_east, v_north), SI."""

    lat_deg: float
    lon_deg: float
    velocity_enu: tuple[float, float]
    covariance: np.ndarray


class Tracker:
    """State (east, north, v_east, v_north) with white acceleration noise."""

    def __init__(
        self, lat_deg: float, lon_deg: float, sigma_m: float, sigma_speed_m_s: float, stamp_s: float | None
    ) -> None:
        """Start at rest at a place known to sigma_m; stamp None: at the first prediction."""
        self._frame = LocalEnu(lat_deg, lon_deg)
        self._state = np.zeros(4)
        self._covariance = np.diag([sigma_m**2, sigma_m**2, sigma_speed_m_s**2, sigma_speed_m_s**2])
        self.stamp_s = stamp_s

    def copy(self) -> "Tracker":
        """An independent track in the same state."""
        other = Tracker.__new__(Tracker)
        other._frame, other.stamp_s = self._frame, self.stamp_s
        other._state, other._covariance = self._state.copy(), self._covariance.copy()
        return other

    def advance(self, stamp_s: float, motion: Sequence[Displacement], sigma_acceleration_m_s2: float) -> None:
        """Move on to stamp_s by what is known of the motion, in order of time, and at constant velocity between."""
        for known in motion:
            step = known if self.stamp_s is None else known.after(self.stamp_s)
            if step is None or step.stop_s > stamp_s or not np.isfinite(step.enu_m).all():
                continue
            self.predict(step.start_s, sigma_acceleration_m_s2)
            self._move(step, sigma_acceleration_m_s2)
        self.predict(stamp_s, sigma_acceleration_m_s2)

    def predict(self, stamp_s: float, sigma_acceleration_m_s2: float) -> np.ndarray:
        """Move on to stamp_s at constant velocity; (4, 4) the derivative of the state by the state before."""
        dt = 0.0 if self.stamp_s is None else max(0.0, stamp_s - self.stamp_s)
        self.stamp_s = stamp_s
        step = np.eye(4)
        step[0, 2] = step[1, 3] = dt
        noise = np.kron([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]], np.eye(2)) * sigma_acceleration_m_s2**2
        self._state = step @ self._state
        self._covariance = step @ self._covariance @ step.T + noise
        return step

    def _move(self, step: Displacement, sigma_acceleration_m_s2: float) -> None:
        """Move on with a displacement: a measurement of where the vehicle is relative to where it was (a clone of the
        place before stands in the state until it is used).
        """
        before, covariance = self._state[:2].copy(), self._covariance[:2].copy()
        moved = self.predict(step.stop_s, sigma_acceleration_m_s2)
        state = np.concatenate([self._state, before])
        across = covariance @ moved.T
        joint = np.block([[self._covariance, across.T], [across, covariance[:, :2]]])
        state, joint = _updated(state, joint, step.enu_m, step.covariance_enu_m2, _MEASURE_STEP)
        self._state, self._covariance = state[:4], joint[:4, :4]
        self._covariance[:2, :2] += np.eye(2) * step.drift_m2

    def distance2(self, lat_deg: float, lon_deg: float, covariance_enu_m2: np.ndarray) -> float:
        """Squared Mahalanobis distance of a fix from the prediction."""
        innovation, spread = self._innovation(lat_deg, lon_deg, covariance_enu_m2)
        return float(innovation @ np.linalg.solve(spread, innovation))

    def update(self, lat_deg: float, lon_deg: float, covariance_enu_m2: np.ndarray) -> None:
        """Fuse a fix."""
        self._update(np.array(self._frame.to_enu(lat_deg, lon_deg)), covariance_enu_m2, _MEASURE)
        if np.hypot(*self._state[:2]) > RE_ORIGIN_M:
            place = self._frame.to_geodetic(*self._state[:2])
            self._frame = LocalEnu(*place)
            self._state[:2] = 0.0

    def _innovation(self, lat_deg: float, lon_deg: float, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        innovation = np.array(self._frame.to_enu(lat_deg, lon_deg)) - self._state[:2]
        return innovation, self._covariance[:2, :2] + covariance

    def _update(self, measured: np.ndarray, noise: np.ndarray, measure: np.ndarray) -> None:
        self._state, self._covariance = _updated(self._state, self._covariance, measured, noise, measure)

    @property
    def sigma_m(self) -> float:
        """One standard deviation of position along its worst axis, m."""
        return float(np.sqrt(np.linalg.eigvalsh(self._covariance[:2, :2])[-1]))

    @property
    def place(self) -> tuple[float, float]:
        """(lat_deg, lon_deg)."""
        lat_deg, lon_deg = self._frame.to_geodetic(*self._state[:2])
        return float(lat_deg), float(lon_deg)

    def track(self) -> Track:
        """The state as published."""
        lat_deg, lon_deg = self.place
        return Track(lat_deg, lon_deg, (float(self._state[2]), float(self._state[3])), self._covariance.copy())


def _updated(
    state: np.ndarray, covariance: np.ndarray, measured: np.ndarray, noise: np.ndarray, measure: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The Kalman filter's update of a state and its covariance."""
    spread = measure @ covariance @ measure.T + noise
    gain = np.linalg.solve(spread, measure @ covariance).T
    # Joseph form: stays symmetric and positive whatever the rounding.
    rest = np.eye(len(state)) - gain @ measure
    return state + gain @ (measured - measure @ state), rest @ covariance @ rest.T + gain @ noise @ gain.T
