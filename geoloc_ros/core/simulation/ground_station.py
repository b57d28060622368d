# SPDX-License-Identifier: Apache-2.0
"""A simulated vehicle as a ground station sees it: what it says of itself, and commands with their answers.

PX4 and ArduPilot differ: flight modes are a pair of numbers or one, PX4 takes off to an altitude above the sea and
packs whole-numbered parameters bytewise, ArduPilot keeps home as the first item of a mission. Sources: mavlink.io
(command, mission and parameter protocols), PX4's px4_custom_mode.h, ArduCopter's mode.h.
"""

import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymavlink import mavutil

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.mavlink_connection import Connection, ConnectionSettings
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.autopilot.vehicle import Autopilot

ANSWER_S = 1.5
TRIES = 3
SILENT_S = 5.0
"""Without a heartbeat for so long the vehicle is gone."""
RATES_HZ = {
    "GLOBAL_POSITION_INT": 10.0,
    "HIL_STATE_QUATERNION": 20.0,
    "SIM_STATE": 20.0,
    "GPS_RAW_INT": 2.0,
    "ATTITUDE": 2.0,
    "MISSION_CURRENT": 1.0,
}
GROUND_STATION = 255

# MAV_CMD_DO_SET_MODE's second and third number. What holds a place is ArduPilot's guided mode: it takes off from it.
_MODES = {
    Autopilot.PX4: {"hold": (4, 3), "mission": (4, 4), "land": (4, 6)},
    Autopilot.ARDUPILOT: {"hold": (4, 0), "mission": (3, 0), "land": (9, 0)},
}
_INTEGERS = range(mavlink.MAV_PARAM_TYPE_UINT8, mavlink.MAV_PARAM_TYPE_INT32 + 1)


@dataclass(frozen=True)
class Parameter:
    """One parameter of the autopilot; kind is MAV_PARAM_TYPE."""

    name: str
    value: float
    kind: int


class GroundStation:
    """Flies one vehicle. Messages arrive on the connection's thread, everything else is the caller's."""

    def __init__(self, url: str, on_message: Callable[[Any], None]) -> None:
        """on_message: gets all that the vehicle says. GeolocError if the URL makes no sense."""
        self.url = url
        self.texts: deque[str] = deque(maxlen=200)
        self._on_message = on_message
        self._latest: dict[str, Any] = {}
        self._heard_s = -math.inf
        self._news = threading.Condition()
        settings = ConnectionSettings(
            url,
            RATES_HZ,
            system_id=GROUND_STATION,
            component_id=mavlink.MAV_COMP_ID_MISSIONPLANNER,
            kind=mavlink.MAV_TYPE_GCS,  # PX4 does not fly without one by default
        )
        self._connection = Connection(settings, self._hear, time.monotonic, lambda _: None)
        self._connection.start()

    def __str__(self) -> str:
        return str(self._connection.vehicle or "no vehicle")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    # --- hearing --------------------------------------------------------------------------------------------

    def _hear(self, message: Any, stamp_s: float) -> None:
        with self._news:
            name = message.get_type()
            if name == "STATUSTEXT":
                self._keep_text(message)
            elif name == "HEARTBEAT":
                self._heard_s = time.monotonic()
            self._latest[name] = message
            self._on_message(message)
            self._news.notify_all()

    def _keep_text(self, message: Any) -> None:
        """A text of more than 50 letters comes in pieces, numbered from 0. PX4 ends some with a tab, as a mark."""
        text = "".join(filter(str.isprintable, message.text))
        if message.id and message.chunk_seq and self.texts:
            self.texts[-1] += text
        else:
            self.texts.append(text)

    def wait_for(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Wait until a condition on what was heard holds; whether it did within the time."""
        with self._news:
            return bool(self._news.wait_for(condition, timeout_s))

    def latest(self, name: str) -> Any:
        """The last message of that name; None before there was one."""
        return self._latest.get(name)

    @property
    def autopilot(self) -> Autopilot:
        """Whose firmware it is; connect first."""
        assert self._connection.vehicle is not None
        return self._connection.vehicle.autopilot

    def version(self) -> tuple[int, int, int] | None:
        """Of its firmware; None where it does not answer."""
        self.wait_for(lambda: self._connection.vehicle and self._connection.vehicle.version, ANSWER_S * TRIES)
        return None if self._connection.vehicle is None else self._connection.vehicle.version

    @property
    def is_silent(self) -> bool:
        """Whether its heartbeat has stopped."""
        return time.monotonic() - self._heard_s > SILENT_S

    @property
    def is_armed(self) -> bool:
        """By its last heartbeat."""
        return bool(self._latest["HEARTBEAT"].base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED)

    @property
    def mode(self) -> str:
        """The name of its flight mode."""
        return str(mavutil.mode_string_v10(self._latest["HEARTBEAT"]))

    def is_in(self, mode: str) -> bool:
        """Whether it is in hold, mission or land."""
        main, sub = _MODES[self.autopilot][mode]
        number = main << 16 | sub << 24 if self.autopilot is Autopilot.PX4 else main
        return bool(self._latest["HEARTBEAT"].custom_mode == number)

    def last_texts(self) -> str:
        """Its last texts, to end an error message with."""
        texts = list(dict.fromkeys(self.texts))[-3:]
        return f"; it says: {' | '.join(texts)}" if texts else ""

    # --- commands -------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> None:
        """Wait for its heartbeat; GeolocError if none comes or it is neither PX4 nor ArduPilot."""
        if not self.wait_for(lambda: "HEARTBEAT" in self._latest, timeout_s):
            raise GeolocError(
                f"{self._connection.problem() or 'no heartbeat'} after {timeout_s:g} s; start PX4's or ArduPilot's "
                "simulator and give the port that it talks to, such as udpin:0.0.0.0:14550 (PX4) or "
                "tcp:127.0.0.1:5763 (ArduPilot)"
            )
        if self.autopilot not in _MODES:
            raise GeolocError(f"{self.autopilot.value} on {self.url} cannot be flown; use PX4 or ArduPilot")

    @property
    def _target(self) -> tuple[int, int]:
        vehicle = self._connection.vehicle
        assert vehicle is not None, "connect first"
        return vehicle.system_id, vehicle.component_id

    def _ask(self, message: Any, answered: Callable[[], Any], *answers: str) -> bool:
        """Send a message up to TRIES times until it is answered; `answers`: what to forget before."""
        for _ in range(TRIES):
            with self._news:
                for name in answers:
                    self._latest.pop(name, None)
            self._connection.send(message)
            if self.wait_for(answered, ANSWER_S):
                return True
        return False

    def try_command(self, command: int, *numbers: float) -> bool:
        """Whether a command was accepted; False, too, without an answer."""
        numbers = (*numbers, *[0.0] * (7 - len(numbers)))
        message = mavlink.MAVLink_command_long_message(*self._target, command, 0, *numbers)

        def answered() -> bool:
            answer = self.latest("COMMAND_ACK")
            return answer is not None and answer.command == command and answer.result != mavlink.MAV_RESULT_IN_PROGRESS

        if not self._ask(message, answered, "COMMAND_ACK"):
            return False
        return bool(self._latest["COMMAND_ACK"].result == mavlink.MAV_RESULT_ACCEPTED)

    def command(self, what: str, command: int, *numbers: float) -> None:
        """GeolocError with the vehicle's last texts if a command is not accepted. what: it does not do."""
        if not self.try_command(command, *numbers):
            raise GeolocError(f"the vehicle does not {what}, its mode is {self.mode}{self.last_texts()}")

    def set_mode(self, mode: str) -> bool:
        """Ask for hold, mission or land; whether it was accepted."""
        custom = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
        return self.try_command(mavlink.MAV_CMD_DO_SET_MODE, custom, *_MODES[self.autopilot][mode])

    def take_off(self, height_m: float) -> None:
        """To a height above where it stands; GeolocError if it does not want to."""
        if self.autopilot is Autopilot.PX4:
            altitude_m = self._latest["GLOBAL_POSITION_INT"].alt * 1e-3 + height_m
            place = (math.nan, math.nan, math.nan, altitude_m)  # heading, latitude, longitude: as they are
        else:
            place = (0.0, 0.0, 0.0, height_m)
        self.command("take off", mavlink.MAV_CMD_NAV_TAKEOFF, 0.0, 0.0, 0.0, *place)

    # --- parameters -----------------------------------------------------------------------------------------

    def parameter(self, name: str) -> Parameter | None:
        """Read one; None where it has none of that name."""
        return self._ask_parameter(name, mavlink.MAVLink_param_request_read_message(*self._target, name.encode(), -1))

    def set_parameter(self, parameter: Parameter) -> bool:
        """Write one of the kind that was read; whether it now has that value."""
        value = parameter.value
        if self.autopilot is Autopilot.PX4 and parameter.kind in _INTEGERS:
            value = struct.unpack("<f", struct.pack("<i", int(value)))[0]
        message = mavlink.MAVLink_param_set_message(*self._target, parameter.name.encode(), value, parameter.kind)
        answer = self._ask_parameter(parameter.name, message)
        return answer is not None and math.isclose(answer.value, parameter.value, rel_tol=1e-6)

    def _ask_parameter(self, name: str, message: Any) -> Parameter | None:
        def answered() -> bool:
            answer = self.latest("PARAM_VALUE")
            return answer is not None and answer.param_id == name

        if not self._ask(message, answered, "PARAM_VALUE"):
            return None
        answer = self._latest["PARAM_VALUE"]
        value = answer.param_value
        if self.autopilot is Autopilot.PX4 and answer.param_type in _INTEGERS:
            value = struct.unpack("<i", struct.pack("<f", value))[0]
        return Parameter(name, float(value), int(answer.param_type))

    # --- missions -------------------------------------------------------------------------------------------

    def upload(self, waypoints: Sequence[tuple[float, float]], height_m: float) -> int:
        """Give it a mission of (lat_deg, lon_deg); returns its last item's number.

        height_m: above home. GeolocError if it does not take it.
        """
        # ArduPilot writes its home into the first item itself.
        home = 1 if self.autopilot is Autopilot.ARDUPILOT else 0
        items = [waypoints[0]] * home + list(waypoints)
        message = mavlink.MAVLink_mission_count_message(*self._target, len(items))
        asked = ("MISSION_REQUEST_INT", "MISSION_REQUEST")

        def answered() -> bool:
            return any(self.latest(name) is not None for name in (*asked, "MISSION_ACK"))

        if self._ask(message, answered, *asked, "MISSION_ACK"):
            while self.latest("MISSION_ACK") is None and self.wait_for(answered, ANSWER_S * TRIES):
                for name in asked:
                    with self._news:
                        request = self._latest.pop(name, None)
                    if request is not None and request.seq < len(items):
                        self._connection.send(self._item(request.seq, items[request.seq], height_m))
        acknowledged = self.latest("MISSION_ACK")
        if acknowledged is None or acknowledged.type != mavlink.MAV_MISSION_ACCEPTED:
            raise GeolocError(f"the vehicle does not take a mission of {len(items)} items{self.last_texts()}")
        return len(items) - 1

    def _item(self, number: int, place: tuple[float, float], height_m: float) -> Any:
        return mavlink.MAVLink_mission_item_int_message(
            *self._target, number, mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT_INT, mavlink.MAV_CMD_NAV_WAYPOINT, 0, 1,
            0.0, 0.0, 0.0, math.nan, round(place[0] * 1e7), round(place[1] * 1e7), height_m,
        )  # fmt: skip
