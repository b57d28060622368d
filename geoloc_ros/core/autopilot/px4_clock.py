# SPDX-License-Identifier: Apache-2.0
"""Whether PX4's clock and this computer's are one clock.

PX4's stamps are microseconds: since boot, or since the epoch of the companion computer's clock while the DDS agent
keeps both in step (UXRCE_DDS_SYNCT).
"""

import math
from collections import deque

MAX_CLOCK_OFFSET_S = 0.1
"""Further apart, PX4's clock and ours are not the same clock; in step they differ by the way through the agent."""

_OFFSET_SAMPLES = 100
_SILENCE_S = 2.0


def px4_time_s(timestamp_us: int) -> float:
    """Seconds of a PX4 stamp; a float keeps 0.2 µs in this century."""
    return timestamp_us * 1e-6


class ClockWatch:
    """Whether PX4's stamps and this computer's clock are one clock.

    The smallest of the last differences between arrival and stamp counts: a message can be late, not early.
    """

    def __init__(self) -> None:
        self._differences: deque[float] = deque(maxlen=_OFFSET_SAMPLES)
        self._received_s = -math.inf

    def note(self, timestamp_us: int, now_s: float) -> None:
        """Note the stamp of a message of PX4 and when it arrived, s."""
        if not -_SILENCE_S < now_s - self._received_s < _SILENCE_S:
            # Either clock may have been set or restarted since.
            self._differences.clear()
        self._received_s = now_s
        self._differences.append(now_s - px4_time_s(timestamp_us))

    @property
    def offset_s(self) -> float:
        """Our clock minus PX4's, s; NaN before a message of PX4."""
        return min(self._differences, default=math.nan)

    def problem(self, now_s: float) -> str:
        """Why stamps of one side mean nothing to the other; empty if they do."""
        if not now_s - self._received_s < _SILENCE_S:
            return f"nothing from PX4 for {_SILENCE_S:g} s: are PX4 and the agent (MicroXRCEAgent) running?"
        offset_s = self.offset_s
        if abs(offset_s) <= MAX_CLOCK_OFFSET_S:
            return ""
        return (
            f"PX4's clock is {offset_s:.3f} s behind this node's, the limit is {MAX_CLOCK_OFFSET_S:g} s: set "
            "UXRCE_DDS_SYNCT to 1, or in simulation to 0 with use_sim_time true and PX4 on the same /clock"
        )
