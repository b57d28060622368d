# SPDX-License-Identifier: Apache-2.0
"""Takes the GNSS of a simulated vehicle away, and restores it."""

from dataclasses import replace

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.autopilot.vehicle import Autopilot
from geoloc_ros.core.simulation.ground_station import GroundStation, Parameter

# The first of these that the autopilot has, and the value that takes GNSS away.
_SWITCHES = {
    Autopilot.PX4: (("SIM_GPS_USED", 0.0),),
    Autopilot.ARDUPILOT: (("SIM_GPS1_ENABLE", 0.0), ("SIM_GPS_DISABLE", 1.0)),
}


class GnssSwitch:
    """Takes a simulated vehicle's GNSS away, and puts it back as it was."""

    def __init__(self, station: GroundStation) -> None:
        """Look for what this simulator offers; GeolocError if it offers nothing."""
        self._station = station
        self._before: Parameter | None = None
        self._failures: Parameter | None = None
        self._off_value = 0.0
        self.is_off = False
        for name, off_value in _SWITCHES[station.autopilot]:
            self._before, self._off_value = station.parameter(name), off_value
            if self._before is not None:
                return
        if station.autopilot is Autopilot.PX4:
            self._failures = station.parameter("SYS_FAILURE_EN")
        if self._failures is None:
            names = " nor ".join(name for name, _ in _SWITCHES[station.autopilot])
            raise GeolocError(
                f"the vehicle has no parameter {names}, so that its GNSS cannot be taken away; fly a simulated one"
            )

    def off(self) -> None:
        """GeolocError if the vehicle does not let it go."""
        self.is_off = True  # whatever comes, it is put back
        if not self._set(off=True):
            raise GeolocError(f"the vehicle does not let its GNSS go{self._station.last_texts()}")

    def on(self) -> bool:
        """Put it back; whether it is there again."""
        self.is_off = not self._set(off=False)
        return not self.is_off

    def _set(self, off: bool) -> bool:
        if self._before is not None:
            value = self._off_value if off else self._before.value
            return self._station.set_parameter(replace(self._before, value=value))
        assert self._failures is not None
        kind = mavlink.FAILURE_TYPE_OFF if off else mavlink.FAILURE_TYPE_OK
        enabled = replace(self._failures, value=1.0)
        numbers = mavlink.MAV_CMD_INJECT_FAILURE, mavlink.FAILURE_UNIT_SENSOR_GPS, kind, 0.0
        done = self._station.set_parameter(enabled) and self._station.try_command(*numbers)
        return done and (off or self._station.set_parameter(self._failures))
