# SPDX-License-Identifier: Apache-2.0
"""Whether PX4's clock and this computer's are one clock.

PX4's stamps are microseconds: since boot, or since the epoch of the companion computer's clock while its DDS client
keeps both in step (UXRCE_DDS_SYNCT). The client compares them now and then; between two comparisons a clock that runs
slow, as that of a simulated PX4, falls behind.
"""

import math

from geoloc_ros.core.autopilot.clock_offset import ClockOffset

MAX_CLOCK_OFFSET_S = 0.5
"""Further apart, PX4's clock and ours are not the same clock; in step, PX4's SIH was seen up to 0.18 s behind."""

FIRST_OFFSET_S = 0.1
"""The same within FIRST_S of the first message, when all that has come may be late."""
FIRST_S = 2.0

IN_STEP_S = 0.02
"""Closer, they are in step: they seem to differ by the way through the agent."""

_SILENCE_S = 2.0


def px4_time_s(timestamp_us: int) -> float:
    """Seconds of a PX4 stamp; a float keeps 0.2 µs in this century."""
    return timestamp_us * 1e-6


class ClockWatch:
    """Whether PX4's stamps and this computer's clock are one clock, and how far they are apart."""

    def __init__(self) -> None:
        self._clock = ClockOffset()
        self._received_s = -math.inf
        self._began_s = math.inf

    def note(self, timestamp_us: int, now_s: float) -> None:
        """Note the stamp of a message of PX4 and when it arrived, s."""
        if not -_SILENCE_S < now_s - self._received_s < _SILENCE_S:
            # Either clock may have been set or restarted since.
            self._clock.clear()
            self._began_s = now_s
        self._received_s = now_s
        self._clock.arrived(px4_time_s(timestamp_us), now_s)

    @property
    def offset_s(self) -> float:
        """Our clock minus PX4's, s; NaN before a message of PX4."""
        return self._clock.offset_s

    @property
    def behind_s(self) -> float:
        """By how much PX4's stamps are behind ours, s: to be added to a stamp of PX4, and taken off one for it."""
        offset_s = self.offset_s
        if not self._is_known:
            return 0.0
        return math.copysign(max(0.0, abs(offset_s) - IN_STEP_S), offset_s)

    @property
    def _is_known(self) -> bool:
        return self._received_s - self._began_s >= FIRST_S

    def problem(self, now_s: float) -> str:
        """Why stamps of one side mean nothing to the other; empty if they do."""
        if not now_s - self._received_s < _SILENCE_S:
            return f"nothing from PX4 for {_SILENCE_S:g} s: are PX4 and the agent (MicroXRCEAgent) running?"
        offset_s = self.offset_s
        limit_s = MAX_CLOCK_OFFSET_S if self._is_known else FIRST_OFFSET_S
        if abs(offset_s) <= limit_s:
            return ""
        return (
            f"PX4's clock is {offset_s:.3f} s behind this node's, the limit is {limit_s:g} s: set "
            "UXRCE_DDS_SYNCT to 1, or in simulation to 0 with use_sim_time true and PX4 on the same /clock"
        )
