# SPDX-License-Identifier: Apache-2.0
"""Which of the localizer's fixes an autopilot may get; no ROS and no autopilot here.

An autopilot follows a wrong position, so only a fix of which the localizer is sure goes on: one of a confirmed
track, complete, young enough to be fused, and newer than the last one. After a relocalization the track may lie
elsewhere; a counter that goes up with the first fix of it has the autopilot jump instead of rejecting it. A step that
the vehicle's own motion does not explain is held back (jump_gate.py).
"""

import enum
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from geoloc_ros.core.autopilot.jump_gate import JumpGate, Seen
from geoloc_ros.core.localization.state import State

AHEAD_S = 0.2
"""A stamp further in the future is no moment of this clock; a simulated one may lag by a frame."""
CLOCK_BACK_S = 1.0
"""A larger step back means that the clock was reset."""
COUNTER_SIZE = 256


class Hold(enum.Enum):
    """Why a fix was not sent; the values are for people."""

    NO_FIX = "no fix"
    UNINITIALIZED = "no prior"
    RELOCALIZING = "not confirmed"
    LOST = "lost"
    DEAD_RECKONING = "dead reckoning"
    NOT_FINITE = "not finite"
    TOO_OLD = "too old"
    IN_FUTURE = "from the future"
    OUT_OF_ORDER = "out of order"
    TWICE = "twice"
    BLOCKED = "autopilot not ready"
    JUMP = "jump"


_OF_STATE = {
    State.UNINITIALIZED: Hold.UNINITIALIZED,
    State.RELOCALIZING: Hold.RELOCALIZING,
    State.LOST: Hold.LOST,
    State.DEAD_RECKONING: Hold.DEAD_RECKONING,
}


@dataclass(frozen=True)
class Fix:
    """What would be sent: WGS84 degrees, altitude in m in the autopilot's own datum, covariance (3, 3) ENU, m²."""

    stamp_s: float
    valid: bool  # False for NO_FIX
    lat_deg: float
    lon_deg: float
    altitude_m: float
    covariance_enu_m2: np.ndarray


@dataclass(frozen=True)
class FixStatus:
    """The localizer's status at one frame (msg/LocalizerStatus)."""

    state: State
    valid: bool
    frames: int  # processed since the localizer started
    heading_deg: float = math.nan  # of the nose, clockwise from north
    sigma_heading_deg: float = math.nan  # one standard deviation
    heading_residual_deg: float = math.nan  # by which the frame's own alignment differs from it


@dataclass(frozen=True)
class Decision:
    """Whether to send a fix. reset_counter: to send with it; eph_m, epv_m: one standard deviation, m, horizontally
    along the worst axis; latency_s: from the image's stamp to now. hold and reason: why not, else None and "".
    heading_deg, sigma_heading_deg: to send with it, of the nose, clockwise from north; NaN: none.
    """

    send: bool
    reason: str
    reset_counter: int
    eph_m: float
    epv_m: float
    latency_s: float
    hold: Hold | None = None
    heading_deg: float = math.nan
    sigma_heading_deg: float = math.nan


@dataclass
class Totals:
    """What became of all fixes. oldest_s: the oldest that was sent, at that moment; resets: of the counter."""

    sent: int = 0
    held: Counter[Hold] = field(default_factory=Counter)
    oldest_s: float = 0.0
    resets: int = 0


class FixGate:
    """Decides fix by fix. It must `observe` every status first, in order, so that no relocalization is missed."""

    def __init__(self, max_age_s: float, max_sigma_heading_deg: float = 0.0, jump_hold_s: float = 12.0) -> None:
        """max_age_s: from image stamp to now, at most; PX4 takes EKF2_DELAY_MAX + 100 ms.

        max_sigma_heading_deg: a heading goes with a fix if neither its standard deviation nor the residual of the
        frame's own alignment is larger; 0: none does. An autopilot that fuses the heading changes what it reports, and
        the offset learned before is wrong until the localizer has followed: without this check it would turn further.

        jump_hold_s: a jump goes on once fixes of new ground have agreed with it for so long; 0: at once.
        """
        self.max_age_s = max_age_s
        self._max_sigma_heading_deg = max_sigma_heading_deg
        self.totals = Totals()
        self.jumps = JumpGate(jump_hold_s)
        self._counter = 0
        self._moved = False  # the track may lie elsewhere than that of the last fix sent
        self._status: FixStatus | None = None
        self._newest_s = -math.inf
        self._now_s = -math.inf

    def observe(self, status: FixStatus) -> None:
        """Note a status; one that left TRACKING, or comes from a restarted localizer, means a new track."""
        restarted = self._status is not None and status.frames < self._status.frames
        self._moved |= self.totals.sent > 0 and (status.state != State.TRACKING or restarted)
        self._status = status

    def decide(self, fix: Fix, status: FixStatus, now_s: float, blocked: str = "") -> Decision:
        """Whether to send `fix` at `now_s` (the clock of its stamp), given the status of the same frame.

        blocked: what else keeps the autopilot from taking it; empty if nothing.
        """
        if now_s < self._now_s - CLOCK_BACK_S:
            self._newest_s = -math.inf
            self.jumps.clear()
        self._now_s = now_s
        latency_s = now_s - fix.stamp_s
        found = self._why_not(fix, status, latency_s)
        if found is None and blocked:
            found = Hold.BLOCKED, blocked
        if fix.stamp_s <= now_s + AHEAD_S:
            self._newest_s = max(self._newest_s, fix.stamp_s)
        eph_m, epv_m = _deviations_m(fix.covariance_enu_m2)
        seen = Seen(fix.stamp_s, fix.lat_deg, fix.lon_deg, eph_m)
        if found is None and (jump := self.jumps.why_held(seen)):
            found = Hold.JUMP, jump
        if found is not None:
            self.totals.held[found[0]] += 1
            return Decision(False, found[1], self._counter, eph_m, epv_m, latency_s, found[0])
        self._moved |= self.jumps.sent(seen)
        if self._moved:
            self._counter = (self._counter + 1) % COUNTER_SIZE
            self.totals.resets += 1
            self._moved = False
        self.totals.sent += 1
        self.totals.oldest_s = max(self.totals.oldest_s, latency_s)
        heading, limit_deg = (status.heading_deg, status.sigma_heading_deg), self._max_sigma_heading_deg
        is_sure = 0.0 < status.sigma_heading_deg <= limit_deg and abs(status.heading_residual_deg) <= limit_deg
        if not (math.isfinite(status.heading_deg) and is_sure):
            heading = math.nan, math.nan
        return Decision(True, "", self._counter, eph_m, epv_m, latency_s, None, *heading)

    def hold_if_late(self, fix: Fix, now_s: float) -> bool:
        """Hold a fix after all that has become too old since it passed, as on a busy machine; whether it was held."""
        if now_s - fix.stamp_s <= self.max_age_s:
            return False
        self.withdraw(Hold.TOO_OLD)
        return True

    def withdraw(self, hold: Hold) -> None:
        """Count the last fix that passed as held.

        A counter that moved with it stays, for the autopilot to see with the next one.
        """
        self.totals.sent -= 1
        self.totals.held[hold] += 1

    def _why_not(self, fix: Fix, status: FixStatus, latency_s: float) -> tuple[Hold, str] | None:
        """The first reason to hold a fix, with its text."""
        if not (math.isfinite(fix.stamp_s) and math.isfinite(latency_s)):
            return Hold.NOT_FINITE, "the stamp is no moment in time"
        if latency_s < -AHEAD_S:
            return Hold.IN_FUTURE, f"the image's stamp is {-latency_s:.3f} s in the future: use one clock"
        if fix.stamp_s == self._newest_s:
            return Hold.TWICE, "there was a fix of this stamp already"
        if fix.stamp_s < self._newest_s:
            return Hold.OUT_OF_ORDER, f"{self._newest_s - fix.stamp_s:.3f} s older than the last one"
        for seen in (status, self._status):  # the second one may be newer
            if seen is not None and seen.state != State.TRACKING:
                return _OF_STATE[seen.state], f"the localizer is {seen.state.name}"
        if not (fix.valid and status.valid):
            return Hold.NO_FIX, "the frame gave no fix"
        place = fix.lat_deg, fix.lon_deg, fix.altitude_m
        eph_m, epv_m = _deviations_m(fix.covariance_enu_m2)
        if not all(map(math.isfinite, (*place, eph_m, epv_m))) or eph_m <= 0 or epv_m <= 0:
            return Hold.NOT_FINITE, f"position {place}, deviations {eph_m} and {epv_m} m: all must be finite"
        if abs(fix.lat_deg) > 90 or abs(fix.lon_deg) > 180:
            return Hold.NOT_FINITE, f"latitude {fix.lat_deg}, longitude {fix.lon_deg} is no place on Earth"
        if latency_s > self.max_age_s:
            return Hold.TOO_OLD, f"{latency_s:.3f} s old, the limit is {self.max_age_s:g} s"
        return None


def _deviations_m(covariance_enu_m2: np.ndarray) -> tuple[float, float]:
    """(eph, epv): one standard deviation along the worst horizontal axis and of altitude, m; NaN for none."""
    horizontal = covariance_enu_m2[:2, :2]
    if not np.isfinite(horizontal).all():
        return math.nan, math.nan
    variance_m2 = float(np.linalg.eigvalsh(horizontal)[-1]), float(covariance_enu_m2[2, 2])
    eph_m, epv_m = (math.sqrt(v) if v >= 0 else math.nan for v in variance_m2)
    return eph_m, epv_m
