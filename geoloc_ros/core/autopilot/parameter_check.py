# SPDX-License-Identifier: Apache-2.0
"""Which parameters of an autopilot keep it from flying on our fixes, and the values to set (docs/mavlink.md).

Found with PX4 1.17 and 1.18 and ArduPilot Copter 4.7 in simulation.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from geoloc_ros.core.autopilot.vehicle import Autopilot

NOAID_TOUT_US = 10_000_000
"""The largest EKF2_NOAID_TOUT."""
DELAY_MAX_MS = 200.0
LARGEST_DELAY_MS = 250
"""ArduPilot corrects no more."""
DELAY_ERROR_MS = 50.0
LEANING_KDV = 0.3
GPS_MAVLINK = 14

SENSOR_SINCE = (1, 18, 0)
"""PX4's first release that takes GLOBAL_POSITION_SENSOR."""

Read = Callable[[str], float | None]


@dataclass(frozen=True)
class Finding:
    """A parameter that stands in the way. value: as it is; wanted: to set."""

    name: str
    value: float
    wanted: str
    why: str


def findings(
    autopilot: Autopilot, version: tuple[int, int, int] | None, read: Read, latency_ms: float = math.nan
) -> list[Finding]:
    """What stands in the way of fixes over MAVLink.

    version: None counts as old. read(name): a parameter's value, None where the autopilot has none of the name.
    latency_ms: from the image to the autopilot, as `mavlink_bridge/latency` has it; NaN: not known.
    """
    rules = _px4(version or (0, 0, 0), read, latency_ms) if autopilot is Autopilot.PX4 else _ardupilot(read, latency_ms)
    return list(rules)


def _px4(version: tuple[int, int, int], read: Read, latency_ms: float) -> Iterator[Finding]:
    if version >= SENSOR_SINCE:
        control = read("EKF2_AGP0_CTRL")
        if control is not None and not int(control) & 1:
            yield Finding("EKF2_AGP0_CTRL", control, "1", "our positions are received and not fused")
        delay_ms = read("EKF2_AGP0_DELAY")
        if delay_ms is not None and abs(delay_ms - latency_ms) > DELAY_ERROR_MS:
            why = "GLOBAL_POSITION_SENSOR brings no time into this PX4: each fix counts as this old when it arrives"
            yield Finding("EKF2_AGP0_DELAY", delay_ms, f"{latency_ms:.0f}", why)
    else:
        control = read("EKF2_EV_CTRL")
        if control is not None and int(control) & ~8 != 1:
            why = "of ODOMETRY the horizontal position is to be fused and, apart from a heading, nothing else"
            yield Finding("EKF2_EV_CTRL", control, "1", why)
        delay_ms = read("EKF2_EV_DELAY")
        if delay_ms:
            yield Finding("EKF2_EV_DELAY", delay_ms, "0", "the message carries the time of the image")
    timeout_us = read("EKF2_NOAID_TOUT")
    if timeout_us is not None and timeout_us < NOAID_TOUT_US:
        why = f"after {timeout_us * 1e-6:g} s without a position it lands blindly; it can wait 10 s at most"
        yield Finding("EKF2_NOAID_TOUT", timeout_us, f"{NOAID_TOUT_US}", why)
    oldest_ms = read("EKF2_DELAY_MAX")
    needed_ms = max(DELAY_MAX_MS, latency_ms)  # the first, if the second is NaN
    if oldest_ms is not None and oldest_ms < needed_ms:
        yield Finding("EKF2_DELAY_MAX", oldest_ms, f"{needed_ms:.0f}", "an older position is not fused")
    drag = read("SIH_KDV")
    if drag is not None and drag > LEANING_KDV:
        why = (
            "this simulated vehicle leans 37 to 40° at 8 m/s, where an image shows little of the map; with 0.2 7 to 10°"
        )
        yield Finding("SIH_KDV", drag, "0.2", why)


def _ardupilot(read: Read, latency_ms: float) -> Iterator[Finding]:
    types = {name: read(name) for name in ("GPS1_TYPE", "GPS2_TYPE")}
    delays = {"GPS1_TYPE": "GPS1_DELAY_MS", "GPS2_TYPE": "GPS2_DELAY_MS"}
    if types["GPS2_TYPE"] is None:  # before 4.6
        types = {name: read(name) for name in ("GPS_TYPE", "GPS_TYPE2")}
        delays = {"GPS_TYPE": "GPS_DELAY_MS", "GPS_TYPE2": "GPS_DELAY_MS2"}
    fed = [name for name, value in types.items() if value == GPS_MAVLINK]
    second = list(types)[1]
    if not fed:
        yield Finding(second, types[second] or 0.0, f"{GPS_MAVLINK}", "no receiver takes GPS_INPUT")
    wanted = {
        "EK3_SRC1_POSXY": (3.0, "position is that of the GPS"),
        "EK3_SRC1_VELZ": (0.0, "no fix has a vertical one"),
    }
    if fed != list(types)[:1]:
        wanted["GPS_PRIMARY"] = 0.0, "the receiver comes first"
        wanted["GPS_AUTO_SWITCH"] = 4.0, "ours is used where the receiver has no fix"
    for name, (good, why) in wanted.items():
        value = read(name)
        if value is not None and value != good:
            yield Finding(name, value, f"{good:g}", why)
    for name in fed:
        delay_ms = read(delays[name])
        good_ms = min(latency_ms, LARGEST_DELAY_MS)
        if delay_ms is not None and abs(delay_ms - good_ms) > DELAY_ERROR_MS:
            yield Finding(delays[name], delay_ms, f"{good_ms:.0f}", "a fix counts as this old when it arrives")
