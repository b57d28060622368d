# SPDX-License-Identifier: Apache-2.0
"""ROS stamps as seconds and back, without losing a digit; and the stamp of any message, decoded or not."""

import math
from typing import Any, Literal

NS = 1_000_000_000
"""Nanoseconds in a second."""


def stamp_from_seconds(seconds: float) -> tuple[int, int]:
    """(sec, nanosec) at or after the epoch, nearest to it; `seconds_from_ns` inverts it in this century."""
    whole = math.floor(max(0.0, seconds))
    # The whole seconds first: their product with 1e9 would only be right to 128 ns.
    carry, nanosec = divmod(round((max(0.0, seconds) - whole) * 1e9), NS)
    return whole + carry, nanosec


def seconds_from_ns(stamp_ns: int) -> float:
    """Seconds of nanoseconds since the clock's epoch. A float keeps 0.2 µs in this century."""
    sec, nanosec = divmod(int(stamp_ns), NS)
    return sec + nanosec * 1e-9


def seconds_from_time(stamp: Any) -> float:
    """The same of a builtin_interfaces/Time."""
    return float(stamp.sec + stamp.nanosec * 1e-9)


def message_time_s(message: Any) -> float:
    """The time in a message's header, s."""
    return seconds_from_time(message.header.stamp)


def stamp_ns(message: Any) -> int | None:
    """The sender's own time, ns: of the header, or of PX4's stamp in µs. None for a message without a stamp."""
    if hasattr(message, "header"):
        return int(message.header.stamp.sec) * NS + int(message.header.stamp.nanosec)
    if hasattr(message, "timestamp_sample"):
        return int(message.timestamp_sample or message.timestamp) * 1000
    return None


def header_stamp_ns(raw: bytes) -> int:
    """The stamp of a CDR message that begins with a header, ns, without decoding the image behind it."""
    order: Literal["little", "big"] = "little" if raw[1] & 1 else "big"
    return int.from_bytes(raw[4:8], order, signed=True) * NS + int.from_bytes(raw[8:12], order)


def px4_stamp_ns(raw: bytes) -> int:
    """The time at which PX4 published a CDR message, ns; all of PX4's messages begin with it."""
    return int.from_bytes(raw[4:12], "little" if raw[1] & 1 else "big") * 1000
