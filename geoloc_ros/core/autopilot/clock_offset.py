# SPDX-License-Identifier: Apache-2.0
"""An autopilot's clock seen from ours."""

import math
from collections import deque

REBOOT_S = 1.0
"""A clock since boot that goes back by more has started anew."""

STEP_S = 2.0
"""A message that seems to be late by more shows that one of the clocks was set."""


class ClockOffset:
    """Our clock minus an autopilot's since boot, s, from TIMESYNC round trips and, before them, from arrivals.

    A round trip is wrong by at most half its length, so the shortest one counts; a message cannot arrive before it
    was sent, so the smallest difference between arrival and stamp bounds the offset. Both over WINDOW_S, as the
    clocks drift. One thread tells; any may read offset_s and round_trip_s, the shortest; NaN before anything was heard.
    """

    WINDOW_S = 30.0

    def __init__(self) -> None:
        self._trips: deque[tuple[float, float, float]] = deque()  # (when, length, offset)
        self._arrivals: deque[tuple[float, float]] = deque()  # (when, difference), growing differences
        self._boot_s = -math.inf
        self.offset_s = self.round_trip_s = math.nan

    def clear(self) -> None:
        """Forget everything: one of the clocks has started anew."""
        self._trips.clear()
        self._arrivals.clear()
        self._boot_s = -math.inf
        self._settle()

    def arrived(self, boot_s: float, now_s: float) -> bool:
        """Note a message's stamp and arrival; True if the autopilot has restarted since the last one."""
        restarted = boot_s < self._boot_s - REBOOT_S
        difference_s = now_s - boot_s
        if restarted or (self._arrivals and not -REBOOT_S < difference_s - self.offset_s < STEP_S):
            self.clear()
        self._boot_s = max(self._boot_s, boot_s)
        while self._arrivals and self._arrivals[-1][1] >= difference_s:
            self._arrivals.pop()
        self._arrivals.append((now_s, difference_s))
        while now_s - self._arrivals[0][0] > self.WINDOW_S:
            self._arrivals.popleft()
        self._settle()
        return restarted

    def round_trip(self, sent_s: float, received_s: float, boot_s: float) -> None:
        """Note an answer: asked and got on our clock, answered at boot_s on the autopilot's."""
        if received_s < sent_s:
            return
        self._trips.append((received_s, received_s - sent_s, (sent_s + received_s) / 2 - boot_s))
        while received_s - self._trips[0][0] > self.WINDOW_S:
            self._trips.popleft()
        self._settle()

    def _settle(self) -> None:
        bound_s = self._arrivals[0][1] if self._arrivals else math.nan
        best = min(self._trips, key=lambda trip: trip[1], default=None)
        self.round_trip_s = math.nan if best is None else best[1]
        # min takes the first of two if the second is NaN.
        self.offset_s = bound_s if best is None else min(best[2], bound_s)
