# SPDX-License-Identifier: Apache-2.0
"""Where the vehicle estimated itself to be and where it really was, on the vehicle's own clock."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc_ros.core.autopilot.clock_offset import ClockOffset
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.autopilot.mavlink_messages import truth_from
from geoloc_ros.core.geometry.geodesy import LocalEnu

QUIET_S = 3.0
"""Without a sample for so long a position is gone."""

_KINDS = {
    "GLOBAL_POSITION_INT": "estimate",
    "HIL_STATE_QUATERNION": "truth",
    "SIM_STATE": "truth",
    "GPS_RAW_INT": "gnss",
}


@dataclass(frozen=True)
class Samples:
    """The vehicle's estimates and the truth of the same moments; all arrays (n,)."""

    time_s: np.ndarray
    estimate_enu_m: np.ndarray  # (n, 2) about the take-off
    truth_enu_m: np.ndarray  # (n, 2)
    height_m: np.ndarray  # true, above the take-off

    @property
    def error_m(self) -> np.ndarray:
        """Horizontal distances."""
        return np.linalg.norm(self.estimate_enu_m - self.truth_enu_m, axis=1)

    def between(self, start_s: float, end_s: float) -> np.ndarray:
        """Errors of a part of the flight, m."""
        return self.error_m[(self.time_s >= start_s) & (self.time_s < end_s)]


class Recorder:
    """Keeps where the vehicle believed it was and where it really was, on the vehicle's own clock.

    That is right however fast a simulation runs, and, for messages with a time, whenever a busy computer comes to read
    them. PX4 fills no time into the truth, so its arrival counts, on the vehicle's clock.
    """

    def __init__(self) -> None:
        self._estimates: list[tuple[float, float, float]] = []  # vehicle's time, latitude, longitude
        self._truths: list[tuple[float, float, float, float]] = []  # and altitude
        self._clock = ClockOffset()
        self._heard_s: dict[str, float] = {}  # monotonic
        self._gnss_has_fix = False

    def now_s(self) -> float:
        """The vehicle's time, since its start; NaN before it sent one."""
        return time.monotonic() - self._clock.offset_s

    def take(self, message: Any) -> None:
        """Any message of the vehicle; on the connection's thread."""
        name = message.get_type()
        if hasattr(message, "time_boot_ms"):
            stamp_s = message.time_boot_ms * 1e-3
            self._clock.arrived(stamp_s, time.monotonic())
        elif getattr(message, "time_usec", 0) and name == "HIL_STATE_QUATERNION":
            stamp_s = message.time_usec * 1e-6
        else:
            stamp_s = self.now_s()
        if name == "GLOBAL_POSITION_INT" and (message.lat or message.lon):
            self._estimates.append((stamp_s, message.lat * 1e-7, message.lon * 1e-7))
        elif name in ("HIL_STATE_QUATERNION", "SIM_STATE"):
            place = truth_from(message)
            if math.isnan(stamp_s):
                return
            # The offset of the clocks may shrink by milliseconds while two messages come at once.
            stamp_s = max(stamp_s, self._truths[-1][0] if self._truths else 0.0)
            self._truths.append((stamp_s, place.lat_deg, place.lon_deg, place.altitude_m))
        elif name == "GPS_RAW_INT":
            self._gnss_has_fix = message.fix_type >= mavlink.GPS_FIX_TYPE_3D_FIX
        else:
            return
        self._heard_s[_KINDS[name]] = time.monotonic()

    def has(self, kind: str) -> bool:
        """Whether truth, estimate or GNSS came within the last seconds; GNSS that has no fix is none."""
        is_fresh = time.monotonic() - self._heard_s.get(kind, -math.inf) < QUIET_S
        return is_fresh and (kind != "gnss" or self._gnss_has_fix)

    def samples(self, begun_s: float, last: int | None = None) -> Samples:
        """Estimates with the truth between its neighbours; the take-off is the first truth. last: so many only."""
        truths = np.array(self._truths[-last:] if last else self._truths, dtype=float).reshape(-1, 4)
        estimates = np.array(self._estimates[-last:] if last else self._estimates, dtype=float).reshape(-1, 3)
        if len(truths):
            inside = (estimates[:, 0] >= truths[0, 0]) & (estimates[:, 0] <= truths[-1, 0])
            estimates = estimates[inside]
        if not len(truths) or not len(estimates):
            return Samples(np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        stamps_s = estimates[:, 0]
        true = np.stack([np.interp(stamps_s, truths[:, 0], truths[:, i]) for i in (1, 2, 3)], axis=1)
        _, lat_deg, lon_deg, ground_m = self._truths[0]
        frame = LocalEnu(lat_deg, lon_deg)
        return Samples(
            stamps_s - begun_s,
            np.stack(frame.to_enu(estimates[:, 1], estimates[:, 2]), axis=1),
            np.stack(frame.to_enu(true[:, 0], true[:, 1]), axis=1),
            true[:, 2] - ground_m,
        )

    def error_now_m(self) -> float:
        """The newest error; NaN before there is one."""
        recent = self.samples(0.0, last=60).error_m
        return float(recent[-1]) if len(recent) else math.nan
