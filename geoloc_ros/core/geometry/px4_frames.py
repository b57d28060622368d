# SPDX-License-Identifier: Apache-2.0
"""PX4's conventions turned into ours; pure numbers, for the live bridge and for bags alike.

PX4 has its attitude as a quaternion w, x, y, z from the FRD body to NED and its positions in a local NED frame. Here
the body is FLU and the world ENU (REP-103). Its stamps are microseconds: since boot, or since the epoch of the
companion computer's clock while the DDS agent keeps both in step (UXRCE_DDS_SYNCT).
"""

from __future__ import annotations

import math
from collections import deque

HALF_TURN = math.sqrt(0.5)

MAX_CLOCK_OFFSET_S = 0.1
"""Further apart, PX4's clock and ours are not the same clock; in step they differ by the way through the agent."""

_OFFSET_SAMPLES = 100
_SILENCE_S = 2.0


def enu_from_flu_quaternion(w: float, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) that turns FLU into ENU, from PX4's (w, x, y, z) that turns FRD into NED.

    The product ENU<-NED * q * FRD<-FLU, a half turn about the north-east diagonal and one about the nose. Values that
    are not finite stay so.
    """
    return HALF_TURN * (x + y), HALF_TURN * (x - y), HALF_TURN * (w - z), HALF_TURN * (w + z)


def height_above_ground_m(
    z_valid: bool, z_m: float, dist_bottom_valid: bool, dist_bottom_m: float, ground_z_m: float = 0.0
) -> float:
    """Height above ground from the fields of VehicleLocalPosition, m; NaN if none is valid.

    The measured distance to the surface where there is one, else the height over the level of the take-off, at
    `ground_z_m` (down, m) in PX4's local frame, whose origin PX4 lays where its estimator starts.
    """
    if dist_bottom_valid and math.isfinite(dist_bottom_m):
        return float(dist_bottom_m)
    return ground_z_m - z_m if z_valid and math.isfinite(z_m) else math.nan


def px4_time_s(timestamp_us: int) -> float:
    """Seconds of a PX4 stamp; a float keeps 0.2 µs in this century."""
    return timestamp_us * 1e-6


class ClockWatch:
    """Whether PX4's stamps and this computer's clock are one clock.

    The smallest of the last differences between arrival and stamp counts: a message can be late, not early.
    """

    def __init__(self) -> None:
        self._differences: deque[float] = deque(maxlen=_OFFSET_SAMPLES)
        self._heard_s = -math.inf

    def hear(self, timestamp_us: int, now_s: float) -> None:
        """Note a message of PX4 and when it arrived, s."""
        if not -_SILENCE_S < now_s - self._heard_s < _SILENCE_S:
            # Either clock may have been set or restarted since.
            self._differences.clear()
        self._heard_s = now_s
        self._differences.append(now_s - px4_time_s(timestamp_us))

    @property
    def offset_s(self) -> float:
        """Our clock minus PX4's, s; NaN before PX4 was heard."""
        return min(self._differences, default=math.nan)

    def problem(self, now_s: float) -> str:
        """Why stamps of one side mean nothing to the other, in words; empty if they do."""
        if not now_s - self._heard_s < _SILENCE_S:
            return f"nothing from PX4 for {_SILENCE_S:g} s: are PX4 and the agent (MicroXRCEAgent) running?"
        offset_s = self.offset_s
        if abs(offset_s) <= MAX_CLOCK_OFFSET_S:
            return ""
        return (
            f"PX4's clock is {offset_s:.3f} s behind this node's, the limit is {MAX_CLOCK_OFFSET_S:g} s: set "
            "UXRCE_DDS_SYNCT to 1, or in simulation to 0 with use_sim_time true and PX4 on the same /clock"
        )
