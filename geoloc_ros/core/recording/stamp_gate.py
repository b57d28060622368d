# SPDX-License-Identifier: Apache-2.0
"""Stamps of live images: a single wrong one must not pass for a clock that was set."""

import math

DISORDER_S = 1.0
"""An image older than the last one by less than this arrived out of order."""
AHEAD_S = 10.0
"""An image may be stamped this much later than the last one beyond what the clock has moved since."""
CONFIRMED = 3
"""So many images in a row on another clock mean that the camera's clock was set."""
_DAY_S = 86_400.0


class StampGate:
    """Refuses images whose stamps do not follow from those before, until CONFIRMED of them agree with one another."""

    def __init__(self) -> None:
        self._last_s = self._last_now_s = -math.inf
        self._stray_s = -math.inf
        self._strays = 0

    def is_late(self, stamp_s: float) -> bool:
        """Whether an image arrived out of order: a newer one was taken already."""
        return self._last_s - DISORDER_S < stamp_s < self._last_s

    def refusal(self, stamp_s: float, now_s: float) -> str:
        """Why an image is refused; empty if it counts. now_s: the node's clock, which simulated time may drive."""
        if stamp_s == 0.0 and now_s > _DAY_S:
            return "stamp is 0 s: the driver did not stamp this image; the track stays"
        moved_s = max(0.0, now_s - self._last_now_s) if math.isfinite(self._last_now_s) else math.inf
        step_s = stamp_s - self._last_s
        if -DISORDER_S < step_s <= moved_s + AHEAD_S or not math.isfinite(self._last_s):
            self._take(stamp_s, now_s)
            return ""
        follows = 0.0 < stamp_s - self._stray_s <= AHEAD_S
        self._stray_s, self._strays = stamp_s, self._strays + 1 if follows else 1
        if self._strays >= CONFIRMED:
            self._take(stamp_s, now_s)
            return ""
        direction = "behind" if step_s < 0 else "ahead of"
        return (
            f"stamp is {abs(step_s):.2f} s {direction} the last image's: the image is refused and the track stays; "
            f"{CONFIRMED} in a row mean that the camera's clock was set"
        )

    def _take(self, stamp_s: float, now_s: float) -> None:
        self._last_s, self._last_now_s, self._strays, self._stray_s = stamp_s, now_s, 0, -math.inf
