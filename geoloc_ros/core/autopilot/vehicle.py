# SPDX-License-Identifier: Apache-2.0
"""Which autopilot a vehicle has."""

import enum
from dataclasses import dataclass

from geoloc_ros.core.autopilot.mavlink_dialect import mavlink


class Autopilot(enum.Enum):
    """Whose firmware it is; the values are for people."""

    ARDUPILOT = "ArduPilot"
    PX4 = "PX4"
    OTHER = "an autopilot that is neither ArduPilot nor PX4"


BY_NUMBER = {mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA: Autopilot.ARDUPILOT, mavlink.MAV_AUTOPILOT_PX4: Autopilot.PX4}


@dataclass(frozen=True)
class Vehicle:
    """The autopilot that was chosen. version: (major, minor, patch), None until reported."""

    autopilot: Autopilot
    system_id: int
    component_id: int
    version: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else " " + ".".join(map(str, self.version))
        return f"{self.autopilot.value}{version}, system {self.system_id}"
