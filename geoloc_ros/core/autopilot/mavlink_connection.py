# SPDX-License-Identifier: Apache-2.0
"""A MAVLink connection to one autopilot: reconnection, reception, message requests and clock synchronization.

No ROS here. One thread of its own does all reading and writing; what it hears of the chosen autopilot goes to a
callback on that thread, with the moment it is about. Services as in mavlink.io/en/services: heartbeat, command,
timesync, and SET_MESSAGE_INTERVAL for the streams.
"""

import math
import select
import socket
import threading
import time
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.clock_offset import ClockOffset
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.autopilot.mavlink_link import Address, Endpoint, Link
from geoloc_ros.core.autopilot.vehicle import BY_NUMBER, Autopilot, Vehicle

HEARTBEAT_S = 1.0
TIMESYNC_S = 1.0
RETRY_S = 1.0
"""Between two attempts to open a connection, and to send a command that was not answered."""

COMMAND_TRIES = 3
RENEW_S = 5.0
"""After this time without attitude the autopilot is asked again; a silent TCP or serial connection is reopened."""

EPOCH_US = 1e15
"""Autopilots give microseconds since boot, or since 1970 where that is what they know; boots are not that long ago."""

# Of these the stamp is the moment of sending, give or take a few milliseconds.
_PROMPT = frozenset({"ATTITUDE_QUATERNION", "ATTITUDE", "GLOBAL_POSITION_INT", "LOCAL_POSITION_NED", "SYSTEM_TIME"})

_POLL_S = 0.1
_PARSERS = 16
_QUEUE = 64


@dataclass(frozen=True)
class ConnectionSettings:
    """url: see mavlink_link; own and target ids; timeout_s: silence after which the autopilot counts as gone.

    rates_hz: messages to ask for, by name. A message that is refused is replaced by that of `instead`, if any. once:
    messages that are to come once more whenever an autopilot is met, as it may send them on change only.
    """

    url: str
    rates_hz: Mapping[str, float]
    instead: Mapping[str, str] = field(default_factory=dict)
    once: Sequence[str] = ()
    system_id: int = 1
    component_id: int = mavlink.MAV_COMP_ID_ONBOARD_COMPUTER
    kind: int = mavlink.MAV_TYPE_ONBOARD_CONTROLLER  # type in our heartbeat
    target_system: int = 0  # 0: the first that is heard
    timeout_s: float = 3.0


@dataclass
class _Request:
    """A command that waits for its answer."""

    command: int
    parameters: tuple[float, float]
    name: str  # of the message that it asks for
    tries: int = 0


class Connection:
    """Keeps a connection to an autopilot until closed; `start` it once."""

    def __init__(
        self,
        settings: ConnectionSettings,
        on_message: Callable[[Any, float], None],
        now_s: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """GeolocError for a URL that makes no sense.

        on_message(message, stamp_s): each message of the autopilot and its moment by now_s, which may be a simulated
        clock. tell: gets a text for each change of the connection. All are called on the connection's thread.
        """
        self._settings = settings
        self._endpoint = Endpoint.parse(settings.url)
        self._on_message, self._now_s, self._tell = on_message, now_s, tell
        self._mav = mavlink.MAVLink(self, settings.system_id, settings.component_id)
        self._parsers: OrderedDict[Address, Any] = OrderedDict()
        self._link: Link | None = None
        self._address: Address = None
        self._outgoing: deque[tuple[Any, float]] = deque(maxlen=_QUEUE)
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mavlink", daemon=True)
        self._requests: deque[_Request] = deque()
        self._asked_s = self._renewed_s = -math.inf
        self._heartbeat_due_s = self._timesync_due_s = -math.inf
        self._heard_s = self._attitude_s = -math.inf  # steady clock
        self._fault = "not connected yet"
        self._opened_s = -math.inf
        self._gone = False
        self._others: frozenset[int] = frozenset()  # never changed in place, as other threads read it
        self.vehicle: Vehicle | None = None
        self.meetings = 0
        """How often an autopilot was new, back after silence, or restarted: earlier messages may no longer hold."""
        self.clock = ClockOffset()
        self.refused: frozenset[str] = frozenset()
        self.counts: Counter[str] = Counter()
        """Messages of the autopilot by name; also `garbage`, `other systems`, and those of ours that were `late`."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; the thread is gone afterwards."""
        self._ended.set()
        self._wake()
        self._thread.join(5.0)
        self._waker.close()
        self._woken.close()

    def send(self, message: Any, not_after_s: float = math.inf) -> None:
        """Hand a message over to be sent at once, from any thread.

        It is dropped if there is no connection, or if the thread reaches it after not_after_s (of now_s).
        """
        self._outgoing.append((message, not_after_s))
        self._wake()

    def problem(self) -> str:
        """The reason why nothing can be sent; empty while the autopilot is connected."""
        if self._fault:
            return self._fault
        silent_s = time.monotonic() - self._heard_s
        if self.vehicle is None:
            wanted = f" of system {self._settings.target_system}" if self._settings.target_system else ""
            others = f"; systems {sorted(self._others)} are there" if self._others else ""
            return f"no heartbeat{wanted} of an autopilot on {self._settings.url} yet{others}"
        if silent_s > self._settings.timeout_s:
            return f"{self.vehicle} is silent for {silent_s:.0f} s on {self._settings.url}"
        return ""

    @property
    def is_asking(self) -> bool:
        """Whether answers to requests are still awaited."""
        return bool(self._requests)

    @property
    def other_autopilots(self) -> list[int]:
        """Systems with an autopilot that was not chosen."""
        return sorted(self._others)

    def write(self, data: bytes) -> None:
        """What pymavlink calls with a packed message; on the connection's thread."""
        if self._link is not None:
            self._link.send(data, self._address)

    # --- thread ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:
            return  # closed, or awake anyway

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._link = self._endpoint.open()
                self._fault = ""
                self._opened_s = time.monotonic()
                self._outgoing.clear()  # what waited is too old by now
                self._tell(f"{self._settings.url} is open")
                self._serve(self._link)
            except (OSError, GeolocError) as error:
                fault = f"{self._settings.url}: {error}; trying again every {RETRY_S:g} s"
                if fault != self._fault:
                    self._tell(fault)
                self._fault = fault
            except Exception:
                # An error of ours must not end the connection: it is reported, and a new one is opened.
                self._fault = "internal error of the connection, see the log"
                self._tell(traceback.format_exc())
            finally:
                if self._link is not None:
                    self._link.close()
                self._link = None
                self._parsers.clear()
            self._ended.wait(RETRY_S)

    def _serve(self, link: Link) -> None:
        while not self._ended.is_set():
            readable, _, _ = select.select([link.fileno(), self._woken.fileno()], [], [], _POLL_S)
            if self._woken.fileno() in readable:
                self._woken.recv(4096)
            while self._outgoing:
                self._send_in_time(*self._outgoing.popleft())
            for data, address in link.receive() if link.fileno() in readable else ():
                for message in self._parse(data, address):
                    self._hear(message, address)
            self._keep_up()

    def _send_in_time(self, message: Any, not_after_s: float) -> None:
        if self._now_s() <= not_after_s:
            self._mav.send(message)
        else:
            self.counts["late"] += 1

    def _parse(self, data: bytes, address: Address) -> list[Any]:
        """Messages in the bytes of one sender; each sender has a parser, as the rest of a message may follow."""
        parser = self._parsers.get(address)
        if parser is None:
            parser = mavlink.MAVLink(None)
            parser.robust_parsing = True
            self._parsers[address] = parser
            if len(self._parsers) > _PARSERS:
                self._parsers.popitem(last=False)
        return parser.parse_buffer(data) or []

    def _keep_up(self) -> None:
        """All that is due."""
        now = time.monotonic()
        if now >= self._heartbeat_due_s:
            self._heartbeat_due_s = now + HEARTBEAT_S
            self._mav.heartbeat_send(self._settings.kind, mavlink.MAV_AUTOPILOT_INVALID, 0, 0, mavlink.MAV_STATE_ACTIVE)
        gone = now - self._heard_s > self._settings.timeout_s
        if self.vehicle is None or gone:
            if self.vehicle is not None and not self._gone:
                self._gone = True
                self._tell(f"{self.vehicle} went silent")
            if self._endpoint.keeps_alive and now - max(self._heard_s, self._opened_s) > RENEW_S:
                raise ConnectionResetError("no heartbeat")
            return
        if now >= self._timesync_due_s:
            self._timesync_due_s = now + TIMESYNC_S
            self._mav.timesync_send(0, int(self._now_s() * 1e9))
        if now - max(self._attitude_s, self._renewed_s) > RENEW_S:
            self._ask_for_everything()
        self._ask(now)

    # --- hearing --------------------------------------------------------------------------------------------

    def _hear(self, message: Any, address: Address) -> None:
        kind = message.get_type()
        if kind == "BAD_DATA":
            self.counts["garbage"] += 1
            return
        source = message.get_srcSystem(), message.get_srcComponent()
        if source == (self._settings.system_id, self._settings.component_id):
            return  # our own, sent back by a router
        if kind == "HEARTBEAT":
            self._on_heartbeat(message, source, address)
        vehicle = self.vehicle
        if vehicle is None or source != (vehicle.system_id, vehicle.component_id):
            self.counts["other systems"] += 1
            return
        self.counts[kind] += 1
        if kind == "TIMESYNC":
            self._on_timesync(message)
        elif kind == "COMMAND_ACK":
            self._on_ack(message)
        elif kind == "AUTOPILOT_VERSION":
            number = message.flight_sw_version
            self.vehicle = replace(vehicle, version=(number >> 24 & 255, number >> 16 & 255, number >> 8 & 255))
            if self.vehicle != vehicle:
                self._tell(f"it is {self.vehicle}")
        elif kind in ("ATTITUDE_QUATERNION", "ATTITUDE"):
            self._attitude_s = time.monotonic()
        self._on_message(message, self._stamp_s(message))

    def _on_heartbeat(self, message: Any, source: tuple[int, int], address: Address) -> None:
        # Ground stations, cameras and others send heartbeats too; these state that they are no autopilots.
        if message.autopilot == mavlink.MAV_AUTOPILOT_INVALID or message.type in (
            mavlink.MAV_TYPE_GCS,
            mavlink.MAV_TYPE_ONBOARD_CONTROLLER,
        ):
            return
        vehicle, wanted = self.vehicle, self._settings.target_system
        if wanted and source[0] != wanted:
            self._others |= {source[0]}
            return
        if vehicle is not None and source != (vehicle.system_id, vehicle.component_id):
            if source[0] != vehicle.system_id and source[0] not in self._others:
                self._others |= {source[0]}
                self._tell(f"a second autopilot, system {source[0]}, is on the link; listening to {vehicle} only")
            return
        self._address = address
        self._heard_s = time.monotonic()
        autopilot = BY_NUMBER.get(message.autopilot, Autopilot.OTHER)
        if vehicle is None or vehicle.autopilot != autopilot:
            self.vehicle = Vehicle(autopilot, *source)
            self._tell(f"found {self.vehicle} on {self._settings.url}")
            self._meet()
        elif self._gone:
            self._tell(f"{vehicle} is back")
            self._meet()

    def _meet(self) -> None:
        """Start over with an autopilot that is new, or may have forgotten us."""
        self._gone = False
        self.meetings += 1
        self.clock.clear()
        self._timesync_due_s = -math.inf
        self._ask_for_everything()

    def _on_timesync(self, message: Any) -> None:
        now_ns = int(self._now_s() * 1e9)
        if message.tc1 == 0:
            self._mav.timesync_send(now_ns, message.ts1)
        elif 0 <= now_ns - message.ts1 < RENEW_S * 1e9:
            self.clock.round_trip(message.ts1 * 1e-9, now_ns * 1e-9, message.tc1 * 1e-9)

    def _stamp_s(self, message: Any) -> float:
        """The time of a message's measurement, by our clock; its arrival if the message has none."""
        now_s = self._now_s()
        if hasattr(message, "time_boot_ms"):
            boot_s = message.time_boot_ms * 1e-3
        elif hasattr(message, "time_usec") and 0 < message.time_usec < EPOCH_US:
            boot_s = message.time_usec * 1e-6
        else:
            return now_s
        if message.get_type() in _PROMPT and self.clock.arrived(boot_s, now_s):
            self._tell(f"{self.vehicle} has restarted")
            self._meet()
            self.clock.arrived(boot_s, now_s)
        stamp_s = boot_s + self.clock.offset_s
        return now_s if math.isnan(stamp_s) else stamp_s

    # --- asking ---------------------------------------------------------------------------------------------

    def _ask_for_everything(self) -> None:
        self._renewed_s = time.monotonic()
        self._asked_s = -math.inf
        self._requests.clear()
        self.refused = frozenset()
        self._requests.extend(_message(name) for name in ("AUTOPILOT_VERSION", *self._settings.once))
        self._requests.extend(_interval(name, rate_hz) for name, rate_hz in self._settings.rates_hz.items())

    def _ask(self, now: float) -> None:
        """One command at a time, because answers do not identify the command."""
        if not self._requests or now - self._asked_s < RETRY_S or self.vehicle is None:
            return
        request = self._requests[0]
        if request.tries >= COMMAND_TRIES:
            self._requests.popleft()
            self._ask(now)
            return
        request.tries += 1
        self._asked_s = now
        self._mav.command_long_send(
            self.vehicle.system_id, self.vehicle.component_id, request.command, request.tries - 1,
            *request.parameters, 0, 0, 0, 0, 0,
        )  # fmt: skip

    def _on_ack(self, message: Any) -> None:
        if not self._requests or self._requests[0].command != message.command:
            return
        if message.result == mavlink.MAV_RESULT_TEMPORARILY_REJECTED:
            return  # it is asked again
        request = self._requests.popleft()
        self._asked_s = -math.inf
        if message.result not in (mavlink.MAV_RESULT_ACCEPTED, mavlink.MAV_RESULT_IN_PROGRESS):
            self.refused |= {request.name}
            other = self._settings.instead.get(request.name)
            if other is not None:
                self._requests.append(_interval(other, self._settings.rates_hz[request.name]))


def _interval(name: str, rate_hz: float) -> _Request:
    return _Request(mavlink.MAV_CMD_SET_MESSAGE_INTERVAL, (_number(name), 1e6 / rate_hz), name)


def _message(name: str) -> _Request:
    return _Request(mavlink.MAV_CMD_REQUEST_MESSAGE, (_number(name), 0.0), name)


def _number(name: str) -> int:
    return int(getattr(mavlink, f"MAVLINK_MSG_ID_{name}"))
