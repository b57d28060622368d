# SPDX-License-Identifier: Apache-2.0
"""Seconds of a flight to the two whole numbers of a ROS stamp and back, without losing a digit."""

from __future__ import annotations

import math

NS = 1_000_000_000
"""Nanoseconds in a second."""


def stamp_from_seconds(seconds: float) -> tuple[int, int]:
    """(sec, nanosec) at or after the epoch, nearest to it; `seconds_from_stamp` inverts it in this century."""
    whole = math.floor(max(0.0, seconds))
    # The whole seconds first: their product with 1e9 would only be right to 128 ns.
    carry, nanosec = divmod(round((max(0.0, seconds) - whole) * 1e9), NS)
    return whole + carry, nanosec


def seconds_from_stamp(sec: int, nanosec: int) -> float:
    """Seconds since the clock's epoch. A float keeps 0.2 µs in this century."""
    return sec + nanosec * 1e-9


def seconds_from_ns(stamp_ns: int) -> float:
    """The same of nanoseconds since the epoch."""
    return seconds_from_stamp(*divmod(int(stamp_ns), NS))
