# SPDX-License-Identifier: Apache-2.0
"""Whether a vehicle can have moved as two fixes have it; no ROS and no autopilot here.

A localizer that matches the wrong place may be sure of it for seconds, and an autopilot that gets a reset with it, or
nothing else for some seconds, follows. The vehicle's own velocity is independent of the map over short times, so a step
between fixes that it does not explain is held back until fixes of other ground agree with it.
"""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

SIGMAS = 3.5
"""Standard deviations of two fixes by which they may differ from the vehicle's motion."""
VELOCITY_ERROR_M_S = 0.5
"""Of the autopilot's own velocity, while it has no other position."""
MAX_SPEED_M_S = 25.0
"""Assumed where the autopilot gives no velocity."""
MEMORY_S = 60.0
"""After so long without a fix the motion since the last one shows nothing."""
NEW_GROUND_M = 50.0
"""Fixes that are closer to each other see the same ground, and the same wrong match."""

_GAP_S = 1.0
_METRES_PER_DEG = 111_320.0


@dataclass(frozen=True)
class Seen:
    """A fix: its moment, s, place, degrees, and horizontal standard deviation, m."""

    stamp_s: float
    lat_deg: float
    lon_deg: float
    eph_m: float


class OwnMotion:
    """The way that a vehicle has gone by its own velocity, of the last MEMORY_S."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque()
        self._ways_m: deque[tuple[float, float, float]] = deque()  # east, north, and along the path
        self._velocity_m_s = (0.0, 0.0)

    def clear(self) -> None:
        """Forget it: its clock started anew, or there was a gap."""
        self._times_s.clear()
        self._ways_m.clear()

    def add(self, stamp_s: float, east_m_s: float, north_m_s: float) -> None:
        """A velocity over the ground, in order; what is not finite ends the record."""
        gone_s = stamp_s - self._times_s[-1] if self._times_s else 0.0
        if not -_GAP_S < gone_s < _GAP_S or not all(map(math.isfinite, (stamp_s, east_m_s, north_m_s))):
            self.clear()
            gone_s = 0.0
            if not all(map(math.isfinite, (stamp_s, east_m_s, north_m_s))):
                return
        if self._times_s and gone_s <= 0.0:
            return
        self._velocity_m_s = (east_m_s, north_m_s)
        way_m = self._onward(self._ways_m[-1], gone_s) if self._ways_m else (0.0, 0.0, 0.0)
        self._times_s.append(stamp_s)
        self._ways_m.append(way_m)
        while stamp_s - self._times_s[0] > MEMORY_S:
            self._times_s.popleft()
            self._ways_m.popleft()

    def between(self, start_s: float, end_s: float) -> tuple[float, float, float] | None:
        """Metres east, north, and along the path; None where the record does not cover both moments."""
        start, end = self._way_at(start_s), self._way_at(end_s)
        if start is None or end is None:
            return None
        return end[0] - start[0], end[1] - start[1], end[2] - start[2]

    def _onward(self, way_m: tuple[float, float, float], seconds: float) -> tuple[float, float, float]:
        east_m_s, north_m_s = self._velocity_m_s
        speed_m_s = math.hypot(east_m_s, north_m_s)
        return way_m[0] + east_m_s * seconds, way_m[1] + north_m_s * seconds, way_m[2] + speed_m_s * seconds

    def _way_at(self, stamp_s: float) -> tuple[float, float, float] | None:
        times_s, ways_m = self._times_s, self._ways_m
        if not times_s or not times_s[0] - _GAP_S <= stamp_s <= times_s[-1] + _GAP_S:
            return None
        after = bisect_left(times_s, stamp_s)
        if after == len(times_s):
            return self._onward(ways_m[-1], stamp_s - times_s[-1])
        if after == 0:
            return ways_m[0]
        share = (stamp_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
        east_m, north_m, path_m = (a + share * (b - a) for a, b in zip(ways_m[after - 1], ways_m[after], strict=True))
        return east_m, north_m, path_m


class JumpGate:
    """Decides fix by fix whether it continues the last one that was sent."""

    def __init__(self, hold_s: float) -> None:
        """hold_s: how long fixes that agree with each other, of new ground, count as a jump; 0: every fix passes."""
        self.motion = OwnMotion()
        self._hold_s = hold_s
        self._last: Seen | None = None  # sent
        self._first_held: Seen | None = None  # of those held that agree with each other
        self._last_held: Seen | None = None

    def clear(self) -> None:
        """Forget all: the clock started anew."""
        self.motion.clear()
        self._last = self._first_held = self._last_held = None

    def why_held(self, seen: Seen) -> str:
        """Why a fix cannot be the vehicle's next; empty if it can."""
        last = self._last
        if self._hold_s <= 0.0 or last is None or not 0.0 <= seen.stamp_s - last.stamp_s <= MEMORY_S:
            return ""
        step_m, limit_m = self._step_m(last, seen)
        if step_m <= limit_m:
            return ""
        first, before = self._first_held, self._last_held
        self._last_held = seen
        if first is None or before is None or not self._agree(before, seen):
            self._first_held = first = seen
        way = self.motion.between(first.stamp_s, seen.stamp_s)
        path_m = _distance_m(first, seen) if way is None else way[2]
        if seen.stamp_s - first.stamp_s >= self._hold_s and path_m >= NEW_GROUND_M:
            return ""
        return f"{step_m:.0f} m from where the vehicle's own motion leads, the limit is {limit_m:.0f} m"

    def sent(self, seen: Seen) -> bool:
        """Note that a fix passed; whether it is a jump from the one before."""
        before = self._last_held
        jumped = before is not None and self._agree(before, seen)
        if jumped and self._last is not None:
            # Held ones that lie between both, as at the limit, are no jump.
            jumped = self._step_m(self._last, seen)[0] > SIGMAS * math.hypot(self._last.eph_m, seen.eph_m)
        self._last, self._first_held, self._last_held = seen, None, None
        return jumped

    def _agree(self, before: Seen, seen: Seen) -> bool:
        step_m, limit_m = self._step_m(before, seen)
        return step_m <= limit_m

    def _step_m(self, before: Seen, seen: Seen) -> tuple[float, float]:
        """What the motion between two fixes leaves unexplained, and how much it may."""
        east_m, north_m = _way_m(before, seen)
        gone_s = seen.stamp_s - before.stamp_s
        way, error_m_s = self.motion.between(before.stamp_s, seen.stamp_s), VELOCITY_ERROR_M_S
        if way is None:
            way, error_m_s = (0.0, 0.0, 0.0), MAX_SPEED_M_S
        step_m = math.hypot(east_m - way[0], north_m - way[1])
        return step_m, SIGMAS * math.hypot(before.eph_m, seen.eph_m) + error_m_s * gone_s


def _way_m(before: Seen, seen: Seen) -> tuple[float, float]:
    """Metres east and north, to a per cent."""
    lon_deg = math.remainder(seen.lon_deg - before.lon_deg, 360.0)
    north_m = (seen.lat_deg - before.lat_deg) * _METRES_PER_DEG
    return lon_deg * _METRES_PER_DEG * math.cos(math.radians(before.lat_deg)), north_m


def _distance_m(before: Seen, seen: Seen) -> float:
    return math.hypot(*_way_m(before, seen))
