# SPDX-License-Identifier: Apache-2.0
"""An autopilot's clock seen from ours."""

import math
from collections import deque

REBOOT_S = 1.0
"""A clock since boot that goes back by more has started anew."""

STEP_S = 2.0
"""A message that seems to be late by more shows that one of the clocks was set."""

AHEAD_S = 0.01
"""A message that seems to come earlier than it was sent, by more, shows that the clock has jumped forward."""

MAX_DRIFT = 0.5
"""Of two clocks against each other, s/s. A crystal drifts by 5e-5; PX4's SIH runs 1 to 1.5 % slow, a simulator on a
computer that is too small for it at half speed."""

_BIN_S = 0.1
_AGE_COST = 0.002
"""A round trip that is so many seconds longer is as good as one that is a second older."""

_LEAST_SPAN_S = 2.0
"""A shorter record does not show the drift."""


class ClockOffset:
    """Our clock minus an autopilot's since boot, s, from TIMESYNC round trips and, before them, from arrivals.

    A message cannot arrive before it was sent, so the differences between arrival and stamp lie above the offset, and
    the line under them that comes closest to them all is offset and drift (Moon, Skelly and Towsley, INFOCOM 1999). A
    round trip is wrong by at most half its length, and by more as it ages, so the shortest young one counts, carried
    on with that drift. Arrivals count for WINDOW_S only, as a simulator's clock loses time under load. One thread
    reports; any may read offset_s, which is that of the newest arrival, drift (s/s) and round_trip_s, the shortest;
    NaN before anything was heard.
    """

    WINDOW_S = 5.0
    TRIPS_S = 30.0

    def __init__(self) -> None:
        self._trips: deque[tuple[float, float, float]] = deque()  # (when, length, offset)
        self._least: deque[tuple[float, float]] = deque()  # (when, difference), the smallest of each _BIN_S
        self._line: tuple[float, float] | None = None  # a moment and the offset then
        self._boot_s = self._now_s = -math.inf
        self.offset_s = self.round_trip_s = math.nan
        self.drift = 0.0

    def clear(self) -> None:
        """Forget everything: one of the clocks has started anew."""
        self._forget()
        self._boot_s = self._now_s = -math.inf
        self.drift = 0.0
        self._settle()

    def arrived(self, boot_s: float, now_s: float) -> bool:
        """Note a message's stamp and arrival; True if the autopilot has restarted since the last one."""
        restarted = boot_s < self._boot_s - REBOOT_S
        difference_s = now_s - boot_s
        if restarted or (self._line is not None and not -REBOOT_S < difference_s - self.offset_s < STEP_S):
            self.clear()
        elif difference_s < self._line_at(now_s) - AHEAD_S:
            self._forget()  # the drift stays
        self._boot_s, self._now_s = max(self._boot_s, boot_s), now_s
        if self._least and now_s < self._least[-1][0] + _BIN_S:
            if difference_s < self._least[-1][1]:
                self._least[-1] = (self._least[-1][0], difference_s)
        else:
            self._least.append((now_s, difference_s))
            while now_s - self._least[0][0] > self.WINDOW_S:
                self._least.popleft()
            self._fit()
        self._settle(difference_s)
        return restarted

    def round_trip(self, sent_s: float, received_s: float, boot_s: float) -> None:
        """Note an answer: asked and got on our clock, answered at boot_s on the autopilot's."""
        if received_s < sent_s:
            return
        self._now_s = max(self._now_s, received_s)
        self._trips.append((received_s, received_s - sent_s, (sent_s + received_s) / 2 - boot_s))
        while received_s - self._trips[0][0] > self.TRIPS_S:
            self._trips.popleft()
        self._settle()

    def _forget(self) -> None:
        self._trips.clear()
        self._least.clear()
        self._line = None

    def _fit(self) -> None:
        """The edge of the lower convex hull over the middle of the record; its least point while that is short."""
        hull: list[tuple[float, float]] = []
        for point in self._least:
            while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(point)
        first_s, last_s = hull[0][0], hull[-1][0]
        if last_s - first_s < _LEAST_SPAN_S:
            self._line = min(hull, key=lambda point: point[1] - self.drift * point[0])
            return
        right = next(i for i, point in enumerate(hull) if point[0] >= (first_s + last_s) / 2)
        self.drift = max(-MAX_DRIFT, min(MAX_DRIFT, _slope(hull[right - 1], hull[right])))
        self._line = hull[right]

    def _line_at(self, now_s: float) -> float:
        """The offset by the line under the arrivals; NaN before any."""
        return math.nan if self._line is None else self._line[1] + self.drift * (now_s - self._line[0])

    def _settle(self, difference_s: float = math.inf) -> None:
        bound_s = min(self._line_at(self._now_s), difference_s)
        self.round_trip_s = min((trip[1] for trip in self._trips), default=math.nan)
        best = min(self._trips, key=lambda trip: trip[1] - _AGE_COST * trip[0], default=None)
        if best is not None:
            # min takes the first of two if the second is NaN.
            bound_s = min(best[2] + self.drift * (self._now_s - best[0]), bound_s)
        self.offset_s = bound_s


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
