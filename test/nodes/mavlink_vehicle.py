# SPDX-License-Identifier: Apache-2.0
"""A small simulated multicopter that speaks MAVLink 2 over real UDP, as PX4's or ArduPilot's simulator does.

In a test or another program:

    with MavlinkVehicle("px4", home=(lat_deg, lon_deg, amsl_m), peers=[("127.0.0.1", 14540)]) as vehicle:
        vehicle.gnss = False            # GNSS is lost: the estimate drifts unless a peer sends positions
        vehicle.truth(), vehicle.estimate(), vehicle.received, vehicle.mode ...

As a process (Ctrl-C ends it; the lines that it prints are the commands that it obeys):

    python test/nodes/mavlink_vehicle.py px4 --home 58.37 26.73 60 --peer 127.0.0.1:14540 --peer 127.0.0.1:14550

Every peer has a socket of its own, as two MAVLink instances of an autopilot have: a bridge listens with
`udpin:127.0.0.1:14540`, a ground station or mission script with `udpin:127.0.0.1:14550`. It does what a mission
needs: heartbeat at 1 Hz, parameters (PARAM_SET, PARAM_REQUEST_READ; PX4 packs integers bytewise), arming, take-off
(command, mode), modes (SET_MODE, DO_SET_MODE), mission upload and start, DO_REPOSITION and
SET_POSITION_TARGET_GLOBAL_INT, landing, return, speed, SET_MESSAGE_INTERVAL, REQUEST_MESSAGE, TIMESYNC.

GNSS is switched off by `gnss = False`, by the parameter SIM_GPS_USED = 0 (PX4), SIM_GPS1_ENABLE = 0 (ArduPilot), or
by MAV_CMD_INJECT_FAILURE (PX4, with SYS_FAILURE_EN = 1). The position estimate then drifts by `drift_m_s`, and the
vehicle follows its estimate, so that it really flies elsewhere. Positions that peers send pull the estimate back,
each compared with what the estimate was at the moment of its image: GPS_INPUT for ArduPilot (GPS2_TYPE = 14),
GLOBAL_POSITION_SENSOR and ODOMETRY for PX4 (EKF2_AGP0_CTRL, EKF2_EV_CTRL bit 0); the others are ignored, as the real
ones do. With no position for `failsafe_s` it lands where it is; PX4 returns to what it was asked for last,
its mission as a rule, once it has GNSS again.

PX4's clock runs as slowly as that of its SIH, which stays behind for good; its HIL_STATE_QUATERNION has no time.
Truth comes as HIL_STATE_QUATERNION (PX4) or SIM_STATE (ArduPilot) where a peer asked for it by
SET_MESSAGE_INTERVAL. Dynamics are those of a point: limited speed and acceleration, tilt that fits the
acceleration, a nose that turns towards where it flies.
"""

import argparse
import contextlib
import math
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymavlink.dialects.v20 import ardupilotmega as mavlink
from pyproj import Transformer
from pyproj.enums import TransformDirection

from geoloc_ros.core.geometry.geodesy import LocalEnu

STEP_S = 0.02
G_M_S2 = 9.80665
MAX_ACCELERATION_M_S2 = 3.0
MAX_YAW_RATE_RAD_S = math.radians(60.0)
CLIMB_M_S = 3.0
REACHED_M = 2.0
AIDING_GAIN = 0.3
"""Share of the difference to a received position that the estimate takes over."""

AIDING_TIMEOUT_S = 2.0
BOOT_AHEAD_S = 100.0
"""What the vehicle's clock shows when it starts, so that nobody takes it for another clock."""

CLOCK_RATES = {"px4": 0.986, "ardupilot": 1.0}
"""Seconds of the vehicle's clock in one of ours."""
LATE_S = 0.003
"""By so much a message leaves after its stamp, on average."""

# Flight modes by the numbers that HEARTBEAT.custom_mode carries.
ARDUPILOT_MODES = {"STABILIZE": 0, "AUTO": 3, "GUIDED": 4, "LOITER": 5, "RTL": 6, "LAND": 9}
PX4_MODES = {
    "POSCTL": 3 << 16,
    "TAKEOFF": 4 << 16 | 2 << 24,
    "LOITER": 4 << 16 | 3 << 24,
    "AUTO": 4 << 16 | 4 << 24,
    "RTL": 4 << 16 | 5 << 24,
    "LAND": 4 << 16 | 6 << 24,
}
PARAMETERS = {
    "px4": {
        "SIM_GPS_USED": 10,
        "SYS_FAILURE_EN": 1,
        "EKF2_AGP0_CTRL": 1,
        "EKF2_EV_CTRL": 1,
        "EKF2_NOAID_TOUT": 5000000,
        "EKF2_AGP0_DELAY": 0.0,
        "EKF2_EV_DELAY": 0.0,
        "EKF2_DELAY_MAX": 200.0,
        "SIH_KDV": 1.0,
        "MPC_XY_CRUISE": 8.0,
    },
    "ardupilot": {
        "SIM_GPS1_ENABLE": 1,
        "GPS1_TYPE": 1,
        "GPS1_DELAY_MS": 0,
        "GPS2_TYPE": 14,
        "GPS2_DELAY_MS": 0,
        "WPNAV_SPEED": 800.0,
    },
}
STREAMS_HZ = {"HEARTBEAT": 1.0, "ATTITUDE": 10.0, "GLOBAL_POSITION_INT": 5.0, "SYSTEM_TIME": 1.0, "GPS_RAW_INT": 1.0}
_NAVIGATION = ("GPS_INPUT", "GLOBAL_POSITION_SENSOR", "ODOMETRY")


@dataclass
class _Peer:
    """One UDP peer: where it is, its parser, and what it asked to be sent."""

    socket: socket.socket
    address: tuple[str, int]
    mav: Any
    intervals_s: dict[str, float] = field(default_factory=dict)
    due_s: dict[str, float] = field(default_factory=dict)
    clock_offset_s: float | None = None  # vehicle's clock minus the peer's
    upload: list[Any] | None = None  # of a mission under way
    upload_size: int = 0
    origin_told: bool = True  # PX4 tells its local origin when it changes, and did so before this peer was there

    def write(self, data: bytes) -> None:
        """What pymavlink calls."""
        # Nobody listening on the peer's port comes back as an error of the next call.
        with contextlib.suppress(OSError):
            self.socket.sendto(data, self.address)


class MavlinkVehicle:
    """The vehicle and its thread; `start` and `stop`, or a with statement."""

    def __init__(
        self,
        autopilot: str,
        home: tuple[float, float, float],
        peers: list[tuple[str, int]],
        system_id: int = 1,
        version: tuple[int, int, int] = (1, 18, 0),
        undulation_m: float = 0.0,
        drift_m_s: float = 0.5,
        failsafe_s: float | None = None,
        agility: float = 1.0,
        max_age_s: float = 1.0,
        clock_rate: float | None = None,
    ) -> None:
        """`autopilot`: px4 or ardupilot; `home`: latitude, longitude (degrees), altitude AMSL (m) of the ground.

        `undulation_m`: the ellipsoid's height below the sea level there, for the GNSS's ellipsoidal altitude.
        `agility`: how much faster than a real one it climbs and sinks, for short tests.
        `failsafe_s`: PX4's parameter EKF2_NOAID_TOUT, or what ArduPilot was seen to take, if None.
        `max_age_s`: older positions are not used, 8 s at most. `clock_rate`: of its clock against ours.
        """
        self.autopilot = autopilot
        self.system_id = system_id
        self.version = version
        self.undulation_m = undulation_m
        self.drift_m_s = drift_m_s
        self._failsafe_s = failsafe_s
        self.agility = agility
        self.max_age_s = max_age_s
        self.clock_rate = CLOCK_RATES[autopilot] if clock_rate is None else clock_rate
        self._jitter = random.Random(5)
        self.home = home
        self.frame = LocalEnu(home[0], home[1])
        # PX4's local frame is a projection of a sphere, which is half a per cent off where the ellipsoid is flat.
        self._sphere = Transformer.from_pipeline(
            f"+proj=pipeline +step +inv +proj=aeqd +R=6371000 +lat_0={home[0]} +lon_0={home[1]} "
            "+step +proj=unitconvert +xy_in=rad +xy_out=deg"
        )
        self.modes = PX4_MODES if autopilot == "px4" else ARDUPILOT_MODES
        self.parameters: dict[str, float] = dict(PARAMETERS[autopilot])
        self.speed_m_s = 8.0
        self.gnss = True
        self.not_arming = ""  # why it refuses to arm
        self.unknown: set[str] = set()  # messages that its firmware does not have
        self.silent = False  # sends nothing, though it lives
        self.received: list[tuple[float, Any]] = []  # (own clock, message) of positions that peers sent
        self.fed: dict[int, Any] = {}  # last GPS_INPUT that each of ArduPilot's receivers took
        self.used = 0  # how many of them moved the estimate
        self.heartbeats: list[tuple[float, Any]] = []  # of peers: (own clock, message)
        self.commands: list[Any] = []
        self.armed = False
        self.mode = "LOITER"
        self.mission: list[Any] = []
        self.reached = -1  # number of the last mission item reached
        self._asked_mode = ""  # to which a failsafe that ends returns
        self._target: np.ndarray | None = None  # ENU about home, m
        self._position = np.zeros(3)
        self._velocity = np.zeros(3)
        self._acceleration = np.zeros(3)
        self._yaw_rad = 0.0  # clockwise from north
        self._error = np.zeros(3)  # estimate minus truth, m
        self._history: deque[tuple[float, np.ndarray]] = deque(maxlen=400)  # (clock, estimate)
        self._aided_s = -math.inf
        self._current = 0
        self._began_s = time.monotonic()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vehicle", daemon=True)
        self._peers = [self._open(address) for address in peers]

    # --- for tests ------------------------------------------------------------------------------------------

    def start(self) -> "MavlinkVehicle":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(5.0)
        for peer in self._peers:
            peer.socket.close()

    def __enter__(self) -> "MavlinkVehicle":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def clock_s(self) -> float:
        """Time since boot, s."""
        return (time.monotonic() - self._began_s) * self.clock_rate + BOOT_AHEAD_S

    def truth(self) -> tuple[float, float, float]:
        """Latitude, longitude (degrees) and height above the ground (m) where it really is."""
        with self._lock:
            position = self._position.copy()
        return (*self.frame.to_geodetic(*position[:2]), float(position[2]))

    def estimate(self) -> tuple[float, float, float]:
        """The same as the autopilot believes."""
        with self._lock:
            position = self._position + self._error
        return (*self.frame.to_geodetic(*position[:2]), float(position[2]))

    def error_m(self) -> float:
        """Horizontal distance of the estimate from the truth."""
        with self._lock:
            return float(np.linalg.norm(self._error[:2]))

    def attitude_rad(self) -> tuple[float, float, float]:
        """Roll, pitch, yaw as MAVLink has them: of the FRD body in NED."""
        with self._lock:
            forward = self._acceleration[0] * math.sin(self._yaw_rad) + self._acceleration[1] * math.cos(self._yaw_rad)
            right = self._acceleration[0] * math.cos(self._yaw_rad) - self._acceleration[1] * math.sin(self._yaw_rad)
            return math.atan2(right, G_M_S2), math.atan2(-forward, G_M_S2), _wrapped(self._yaw_rad)

    def place(
        self,
        east_m: float,
        north_m: float,
        up_m: float,
        yaw_deg: float = 0.0,
        velocity_m_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Put it there, armed and hovering, or moving east and north."""
        with self._lock:
            self._position = np.array([east_m, north_m, up_m], dtype=float)
            self._target = self._position.copy()
            self._velocity[:] = (*velocity_m_s, 0.0)
            self._yaw_rad = math.radians(yaw_deg)
            self.armed, self.mode = True, "LOITER"

    def go(self, east_m: float, north_m: float, up_m: float) -> None:
        """Fly there."""
        with self._lock:
            self._target = np.array([east_m, north_m, up_m], dtype=float)

    def reboot(self) -> None:
        """Start the clock anew and forget what peers asked for, as a watchdog's reset in flight."""
        with self._lock:
            self._began_s = time.monotonic()
            self._history.clear()
            for peer in self._peers:
                peer.intervals_s.clear()
                peer.due_s.clear()
                peer.clock_offset_s = None
                peer.origin_told = False

    def send_bytes(self, data: bytes) -> None:
        """Raw bytes to all peers."""
        for peer in self._peers:
            peer.write(data)

    @property
    def clocks_compared(self) -> bool:
        """Whether all peers have answered its TIMESYNC."""
        return all(peer.clock_offset_s is not None for peer in self._peers)

    @property
    def landed(self) -> bool:
        with self._lock:
            return not self.armed and self._position[2] < 0.3

    # --- thread ---------------------------------------------------------------------------------------------

    def _open(self, address: tuple[str, int]) -> _Peer:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("", 0))
        opened.setblocking(False)
        peer = _Peer(opened, address, None)
        peer.mav = mavlink.MAVLink(peer, srcSystem=self.system_id, srcComponent=1)
        peer.mav.robust_parsing = True
        return peer

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._ended.is_set():
            wait_s = max(0.0, next_s - time.monotonic())
            readable, _, _ = select.select([peer.socket for peer in self._peers], [], [], wait_s)
            with self._lock:
                for peer in self._peers:
                    if peer.socket in readable:
                        self._receive(peer)
                if time.monotonic() >= next_s:
                    next_s = max(next_s + STEP_S, time.monotonic() - STEP_S)
                    self._step(STEP_S)
                    if not self.silent:
                        for peer in self._peers:
                            self._stream(peer)

    def _receive(self, peer: _Peer) -> None:
        while True:
            try:
                data = peer.socket.recv(65535)
            except OSError:  # nothing left, or nobody listens there
                return
            for message in peer.mav.parse_buffer(data) or ():
                handle = getattr(self, f"_on_{message.get_type().lower()}", None)
                if message.get_type() in _NAVIGATION:
                    self.received.append((self.clock_s(), message))
                if handle is not None and not self.silent:
                    handle(peer, message)

    # --- dynamics -------------------------------------------------------------------------------------------

    def _step(self, dt_s: float) -> None:
        now_s = self.clock_s()
        self._estimate_step(now_s, dt_s)
        wanted = self._wanted_velocity(now_s)
        change = wanted - self._velocity
        limit = MAX_ACCELERATION_M_S2 * dt_s
        level = float(np.hypot(*change[:2]))
        change[:2] *= min(1.0, limit / level) if level > 0 else 1.0
        change[2] = max(-limit * self.agility, min(limit * self.agility, change[2]))
        self._acceleration += 0.2 * (change / dt_s - self._acceleration)  # it takes time to tilt
        self._velocity += change
        self._position += self._velocity * dt_s
        if self._position[2] <= 0.0:
            self._position[2] = 0.0
            self._velocity[:] = 0.0
            self._acceleration[:] = 0.0
            if self.armed and self.mode in ("LAND", "RTL"):
                self.armed = False
        if float(np.hypot(*wanted[:2])) > 1.0:
            turn = _wrapped(math.atan2(wanted[0], wanted[1]) - self._yaw_rad)
            self._yaw_rad += max(-MAX_YAW_RATE_RAD_S * dt_s, min(MAX_YAW_RATE_RAD_S * dt_s, turn))
        self._history.append((now_s, self._position + self._error))

    def _estimate_step(self, now_s: float, dt_s: float) -> None:
        if self._has_gnss():
            self._error *= 1.0 - min(1.0, dt_s)
            self._aided_s = now_s
        elif now_s - self._aided_s > STEP_S:
            # Dead reckoning: a velocity that is a little wrong, always to the same side.
            self._error[:2] += np.array([0.8, 0.6]) * self.drift_m_s * dt_s
        if now_s - self._aided_s > self.failsafe_s and self.armed and self.mode != "LAND":
            self._asked_mode = self.mode
            self._set_mode("LAND")
            for peer in self._peers:
                # PX4 ends its texts so, to mark those that come as events too.
                peer.mav.statustext_send(mavlink.MAV_SEVERITY_CRITICAL, b"Failsafe activated: blind land\t")
        elif self._asked_mode and self.autopilot == "px4" and self._has_gnss() and self.armed:
            mode, self._asked_mode = self._asked_mode, ""
            self._set_mode(mode)

    @property
    def failsafe_s(self) -> float:
        """Without a position for so long it lands."""
        if self._failsafe_s is not None:
            return self._failsafe_s
        return self.parameters["EKF2_NOAID_TOUT"] * 1e-6 if self.autopilot == "px4" else 10.0

    def _has_gnss(self) -> bool:
        told = self.parameters
        on = told.get("SIM_GPS_USED", 10) >= 4 and told.get("SIM_GPS1_ENABLE", 1) > 0
        return self.gnss and on and not told.get("SIM_GPS_DISABLE")

    def _wanted_velocity(self, now_s: float) -> np.ndarray:
        if not self.armed:
            return np.zeros(3)
        believed = self._position + self._error
        blind = now_s - self._aided_s > self.failsafe_s
        if self.mode == "LAND":
            wanted = np.zeros(3) if blind or self._target is None else 0.8 * (self._target - believed)
            wanted[2] = -self.agility if self._position[2] > 0.05 else -0.3
            return self._limited(wanted)
        if self.mode == "AUTO":
            self._follow_mission(believed)
        elif self.mode == "RTL":
            self._return(believed)
        if self._target is None:
            return np.zeros(3)
        return self._limited(0.8 * (self._target - believed))

    def _limited(self, wanted: np.ndarray) -> np.ndarray:
        level = float(np.hypot(*wanted[:2]))
        if level > self.speed_m_s:
            wanted[:2] *= self.speed_m_s / level
        climb_m_s = CLIMB_M_S * self.agility
        wanted[2] = max(-climb_m_s, min(climb_m_s, wanted[2]))
        return wanted

    def _follow_mission(self, believed: np.ndarray) -> None:
        while self._current < len(self.mission):
            item = self.mission[self._current]
            if item.command == mavlink.MAV_CMD_DO_CHANGE_SPEED:
                self.speed_m_s = item.param2
            elif item.command == mavlink.MAV_CMD_NAV_LAND:
                self._set_mode("LAND")
            elif item.command == mavlink.MAV_CMD_NAV_RETURN_TO_LAUNCH:
                self._set_mode("RTL")
            elif item.command in (mavlink.MAV_CMD_NAV_WAYPOINT, mavlink.MAV_CMD_NAV_TAKEOFF):
                here = item.command == mavlink.MAV_CMD_NAV_TAKEOFF or (item.x == 0 and item.y == 0)
                if here:
                    self._target = np.array([*(believed[:2] if self._target is None else self._target[:2]), item.z])
                else:
                    east_m, north_m = self.frame.to_enu(item.x * 1e-7, item.y * 1e-7)
                    self._target = np.array([east_m, north_m, item.z])
                if float(np.linalg.norm(self._target - believed)) > REACHED_M:
                    return
            self.reached = self._current
            home = 1 if self.autopilot == "ardupilot" else 0  # its items count from home
            for peer in self._peers:
                peer.mav.mission_item_reached_send(self._current + home)
            self._current += 1
            if self.mode != "AUTO":
                return
        self._set_mode("LOITER")

    def _return(self, believed: np.ndarray) -> None:
        self._target = np.array([0.0, 0.0, max(15.0, believed[2])])
        if float(np.hypot(*believed[:2])) < REACHED_M:
            self._set_mode("LAND")

    def _set_mode(self, mode: str) -> bool:
        if mode not in self.modes:
            return False
        believed = self._position + self._error
        if mode in ("LOITER", "POSCTL", "LAND") and self.mode != mode:
            self._target = believed.copy()
        if mode == "AUTO":
            self._current = 0 if self._current >= len(self.mission) else self._current
        self.mode = mode
        return True

    def _aid(self, position: np.ndarray, sample_s: float) -> None:
        """Pull the estimate to a position of the moment `sample_s` of its own clock."""
        now_s = self.clock_s()
        if self._has_gnss() or not self._history or not -0.05 <= now_s - sample_s <= self.max_age_s:
            return
        then = min(self._history, key=lambda entry: abs(entry[0] - sample_s))[1]
        self._error[:2] += AIDING_GAIN * (position - then[:2])
        if now_s - self._aided_s > AIDING_TIMEOUT_S:
            self._error[:2] += (1.0 - AIDING_GAIN) * (position - then[:2])
        self._aided_s = now_s
        self.used += 1

    # --- what it sends --------------------------------------------------------------------------------------

    def _stream(self, peer: _Peer) -> None:
        now_s = self.clock_s()
        if self.autopilot == "px4" and not peer.origin_told:
            peer.origin_told = self._send(peer, "GPS_GLOBAL_ORIGIN")
        for name, rate_hz in {**STREAMS_HZ, "TIMESYNC": 1.0}.items():
            peer.intervals_s.setdefault(name, 1.0 / rate_hz)
        for name, interval_s in peer.intervals_s.items():
            on_change = self.autopilot == "px4" and name == "GPS_GLOBAL_ORIGIN"
            if interval_s > 0 and not on_change and now_s >= peer.due_s.get(name, 0.0) - STEP_S / 2:
                peer.due_s[name] = max(now_s, peer.due_s.get(name, now_s)) + interval_s
                self._send(peer, name)

    def _send(self, peer: _Peer, name: str) -> bool:
        """Send one message by name; False where this autopilot has none of the kind."""
        send = getattr(self, f"_send_{name.lower()}", None)
        if send is None or name in self.unknown:
            return False
        send(peer.mav)
        return True

    def _ms(self) -> int:
        return int((self.clock_s() - self._jitter.expovariate(1 / LATE_S)) * 1e3)

    def _us(self) -> int:
        return int((self.clock_s() - self._jitter.expovariate(1 / LATE_S)) * 1e6)

    def _send_heartbeat(self, mav: Any) -> None:
        px4 = self.autopilot == "px4"
        base = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | (mavlink.MAV_MODE_FLAG_SAFETY_ARMED if self.armed else 0)
        mav.heartbeat_send(
            mavlink.MAV_TYPE_QUADROTOR,
            mavlink.MAV_AUTOPILOT_PX4 if px4 else mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA,
            base,
            self.modes[self.mode],
            mavlink.MAV_STATE_ACTIVE if self.armed else mavlink.MAV_STATE_STANDBY,
        )

    def _send_attitude(self, mav: Any) -> None:
        mav.attitude_send(self._ms(), *self.attitude_rad(), 0.01, 0.02, 0.03)

    def _send_attitude_quaternion(self, mav: Any) -> None:
        mav.attitude_quaternion_send(self._ms(), *_quaternion(*self.attitude_rad()), 0.01, 0.02, 0.03)

    def _send_global_position_int(self, mav: Any) -> None:
        # PX4 tells no global position while it has none.
        if self.autopilot == "px4" and self.clock_s() - self._aided_s > self.failsafe_s:
            return
        lat_deg, lon_deg, up_m = self.estimate()
        velocity = [round(v * 100) for v in (self._velocity[1], self._velocity[0], -self._velocity[2])]
        heading = round(math.degrees(self._yaw_rad) % 360.0 * 100) % 36000
        mav.global_position_int_send(
            self._ms(), _e7(lat_deg), _e7(lon_deg), round((self.home[2] + up_m) * 1e3), round(up_m * 1e3),
            *velocity, heading,
        )  # fmt: skip

    def _send_local_position_ned(self, mav: Any) -> None:
        lat_deg, lon_deg, up_m = self.estimate()
        east_m, north_m = self._sphere.transform(lon_deg, lat_deg, direction=TransformDirection.INVERSE)
        mav.local_position_ned_send(
            self._ms(), north_m, east_m, -up_m, self._velocity[1], self._velocity[0], -self._velocity[2]
        )

    def _send_gps_global_origin(self, mav: Any) -> None:
        mav.gps_global_origin_send(_e7(self.home[0]), _e7(self.home[1]), round(self.home[2] * 1e3), self._us())

    def _send_home_position(self, mav: Any) -> None:
        place = (_e7(self.home[0]), _e7(self.home[1]), round(self.home[2] * 1e3))
        mav.home_position_send(*place, 0.0, 0.0, 0.0, [1.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0, self._us())

    def _send_altitude(self, mav: Any) -> None:
        if self.autopilot != "px4":
            return
        up_m = float((self._position + self._error)[2])
        amsl_m = self.home[2] + up_m
        mav.altitude_send(self._us(), amsl_m, amsl_m, up_m, up_m, -2000.0, -1.0)

    def _send_gps_raw_int(self, mav: Any) -> None:
        if self.parameters.get("GPS1_TYPE") == 14:
            self._send_fed(mav.gps_raw_int_send, 0)
            return
        if not self._has_gnss():
            mav.gps_raw_int_send(self._us(), 1, 0, 0, 0, 65535, 65535, 65535, 65535, 0)
            return
        lat_deg, lon_deg, up_m = self.truth()
        speed = round(float(np.hypot(*self._velocity[:2])) * 100)
        mav.gps_raw_int_send(
            self._us(), 3, _e7(lat_deg), _e7(lon_deg), round((self.home[2] + up_m) * 1e3), 80, 120, speed, 65535, 12,
            round((self.home[2] + self.undulation_m + up_m) * 1e3), 1500, 2500, 100, 0, 0,
        )  # fmt: skip

    def _send_gps2_raw(self, mav: Any) -> None:
        if self.parameters.get("GPS2_TYPE") == 14:
            self._send_fed(lambda *fields: mav.gps2_raw_send(*fields, 0, 0), 1)

    def _send_fed(self, send: Any, number: int) -> None:
        """A receiver that is fed by GPS_INPUT reports that like any other."""
        fed = self.fed.get(number)
        if fed is None:
            send(self._us(), 1, 0, 0, 0, 65535, 65535, 65535, 65535, 0)
        else:
            send(self._us(), 3, fed.lat, fed.lon, round(fed.alt * 1e3), 100, 100, 0, 65535, 10)

    def _send_system_time(self, mav: Any) -> None:
        mav.system_time_send(int(time.time() * 1e6), self._ms())

    def _send_timesync(self, mav: Any) -> None:
        mav.timesync_send(0, int(self.clock_s() * 1e9))

    def _send_extended_sys_state(self, mav: Any) -> None:
        on_ground = self._position[2] < 0.1
        mav.extended_sys_state_send(
            0, mavlink.MAV_LANDED_STATE_ON_GROUND if on_ground else mavlink.MAV_LANDED_STATE_IN_AIR
        )

    def _send_mission_current(self, mav: Any) -> None:
        mav.mission_current_send(self._current)

    def _send_autopilot_version(self, mav: Any) -> None:
        major, minor, patch = self.version
        number = major << 24 | minor << 16 | patch << 8 | 255
        mav.autopilot_version_send(
            mavlink.MAV_PROTOCOL_CAPABILITY_MAVLINK2, number, 0, 0, 0, b"\0" * 8, b"\0" * 8, b"\0" * 8, 0, 0, 0
        )

    def _send_hil_state_quaternion(self, mav: Any) -> None:
        if self.autopilot != "px4":
            return
        lat_deg, lon_deg, up_m = self.truth()
        mav.hil_state_quaternion_send(
            0, _quaternion(*self.attitude_rad()), 0.0, 0.0, 0.0, _e7(lat_deg), _e7(lon_deg),
            round((self.home[2] + up_m) * 1e3),
            *[round(v * 100) for v in (self._velocity[1], self._velocity[0], -self._velocity[2])], 0, 0, 0, 0, 0,
        )  # fmt: skip

    def _send_sim_state(self, mav: Any) -> None:
        if self.autopilot != "ardupilot":
            return
        lat_deg, lon_deg, up_m = self.truth()
        roll, pitch, yaw = self.attitude_rad()
        # ArduPilot fills the fields for degrees with 1e-7 degrees.
        mav.sim_state_send(
            *_quaternion(roll, pitch, yaw), roll, pitch, yaw, 0.0, 0.0, -G_M_S2, 0.0, 0.0, 0.0,
            lat_deg * 1e7, lon_deg * 1e7, self.home[2] + up_m, 0.0, 0.0,
            self._velocity[1], self._velocity[0], -self._velocity[2], _e7(lat_deg), _e7(lon_deg),
        )  # fmt: skip

    # --- what it hears --------------------------------------------------------------------------------------

    def _on_heartbeat(self, peer: _Peer, message: Any) -> None:
        self.heartbeats.append((self.clock_s(), message))

    def _on_timesync(self, peer: _Peer, message: Any) -> None:
        now_ns = int(self.clock_s() * 1e9)
        if message.tc1 == 0:
            peer.mav.timesync_send(now_ns, message.ts1)
        elif message.ts1 <= now_ns:
            peer.clock_offset_s = (message.ts1 + now_ns) / 2e9 - message.tc1 * 1e-9

    def _own_time_s(self, peer: _Peer, time_usec: int) -> float:
        """A peer's time on the vehicle's clock; now, before the clocks are compared, as PX4 does."""
        now_s = self.clock_s()
        return now_s if peer.clock_offset_s is None else time_usec * 1e-6 + peer.clock_offset_s

    def _on_gps_input(self, peer: _Peer, message: Any) -> None:
        # Each of its receivers takes what is addressed to it, if it is one of MAVLink.
        if self.parameters.get(f"GPS{message.gps_id + 1}_TYPE") == 14 and message.fix_type >= 3:
            position = np.array(self.frame.to_enu(message.lat * 1e-7, message.lon * 1e-7))
            self.fed[message.gps_id] = message
            delay_s = self.parameters[f"GPS{message.gps_id + 1}_DELAY_MS"] * 1e-3
            self._aid(position, self.clock_s() - delay_s)

    def _on_global_position_sensor(self, peer: _Peer, message: Any) -> None:
        # PX4 1.18 ignores time_usec and processing_time: the arrival counts.
        if self.autopilot == "px4" and self.version >= (1, 18, 0) and self.parameters["EKF2_AGP0_CTRL"] > 0:
            position = np.array(self.frame.to_enu(message.lat * 1e-7, message.lon * 1e-7))
            self._aid(position, self.clock_s() - self.parameters["EKF2_AGP0_DELAY"] * 1e-3)

    def _on_odometry(self, peer: _Peer, message: Any) -> None:
        if self.autopilot == "px4" and int(self.parameters["EKF2_EV_CTRL"]) & 1:
            lon_deg, lat_deg = self._sphere.transform(message.y, message.x)
            position = np.array(self.frame.to_enu(lat_deg, lon_deg))
            self._aid(position, self._own_time_s(peer, message.time_usec))

    def _on_param_request_read(self, peer: _Peer, message: Any) -> None:
        if message.param_id in self.parameters:
            self._send_parameter(peer, message.param_id)

    def _on_param_set(self, peer: _Peer, message: Any) -> None:
        value = message.param_value
        if self.autopilot == "px4" and message.param_type == mavlink.MAV_PARAM_TYPE_INT32:
            value = struct.unpack("<i", struct.pack("<f", value))[0]
        if message.param_id in self.parameters:
            self.parameters[message.param_id] = value
            self._send_parameter(peer, message.param_id)

    def _send_parameter(self, peer: _Peer, name: str) -> None:
        value = self.parameters[name]
        if self.autopilot == "px4" and isinstance(PARAMETERS["px4"].get(name), int):
            kind = mavlink.MAV_PARAM_TYPE_INT32
            value = struct.unpack("<f", struct.pack("<i", int(value)))[0]
        else:
            kind = mavlink.MAV_PARAM_TYPE_REAL32
        names = list(self.parameters)
        peer.mav.param_value_send(name.encode(), value, kind, len(names), names.index(name))

    def _on_set_mode(self, peer: _Peer, message: Any) -> None:
        self._mode_by_number(message.custom_mode)

    def _mode_by_number(self, number: int) -> bool:
        names = [name for name, value in self.modes.items() if value == number]
        if names and self._asked_mode:
            self._asked_mode = names[0]  # the failsafe goes on
            return True
        return bool(names) and self._set_mode(names[0])

    def _on_set_position_target_global_int(self, peer: _Peer, message: Any) -> None:
        east_m, north_m = self.frame.to_enu(message.lat_int * 1e-7, message.lon_int * 1e-7)
        self._target = np.array([east_m, north_m, message.alt])

    def _on_mission_clear_all(self, peer: _Peer, message: Any) -> None:
        self.mission, self._current, self.reached = [], 0, -1
        self._mission_ack(peer, message)

    def _on_mission_count(self, peer: _Peer, message: Any) -> None:
        peer.upload, peer.upload_size = [], message.count
        self._ask_for_item(peer, message)

    def _on_mission_item_int(self, peer: _Peer, message: Any) -> None:
        if peer.upload is None or message.seq != len(peer.upload):
            return
        peer.upload.append(message)
        if len(peer.upload) < peer.upload_size:
            self._ask_for_item(peer, message)
            return
        # ArduPilot keeps home in the first item and does not fly there.
        self.mission = peer.upload[1:] if self.autopilot == "ardupilot" else peer.upload
        peer.upload, self._current, self.reached = None, 0, -1
        self._mission_ack(peer, message)

    def _ask_for_item(self, peer: _Peer, message: Any) -> None:
        peer.mav.mission_request_int_send(message.get_srcSystem(), message.get_srcComponent(), len(peer.upload or ()))

    def _mission_ack(self, peer: _Peer, message: Any) -> None:
        peer.mav.mission_ack_send(message.get_srcSystem(), message.get_srcComponent(), mavlink.MAV_MISSION_ACCEPTED)

    def _on_command_long(self, peer: _Peer, message: Any) -> None:
        place = (message.param5, message.param6, message.param7)
        self._command(peer, message, place)

    def _on_command_int(self, peer: _Peer, message: Any) -> None:
        self._command(peer, message, (message.x * 1e-7, message.y * 1e-7, message.z))

    def _command(self, peer: _Peer, message: Any, place: tuple[float, float, float]) -> None:
        if message.target_system not in (0, self.system_id):
            return
        self.commands.append(message)
        done = self._obey(peer, message, place)
        result = {
            True: mavlink.MAV_RESULT_ACCEPTED, False: mavlink.MAV_RESULT_DENIED, None: mavlink.MAV_RESULT_UNSUPPORTED
        }[done]  # fmt: skip
        peer.mav.command_ack_send(message.command, result, 0, 0, message.get_srcSystem(), message.get_srcComponent())

    def _obey(self, peer: _Peer, message: Any, place: tuple[float, float, float]) -> bool | None:
        """Whether a command was carried out; None for one that it does not know."""
        command = message.command
        if command == mavlink.MAV_CMD_SET_MESSAGE_INTERVAL:
            return self._set_interval(peer, int(message.param1), message.param2)
        if command == mavlink.MAV_CMD_REQUEST_MESSAGE:
            return self._send(peer, _message_name(int(message.param1)))
        if command == mavlink.MAV_CMD_COMPONENT_ARM_DISARM:
            if self.not_arming and message.param1 > 0.5:
                peer.mav.statustext_send(mavlink.MAV_SEVERITY_CRITICAL, self.not_arming.encode())
                return False
            self.armed = message.param1 > 0.5
            return True
        if command == mavlink.MAV_CMD_DO_SET_MODE:
            # PX4 takes main and sub mode as two numbers, ArduPilot one number.
            number = int(message.param2)
            if self.autopilot == "px4":
                number = number << 16 | int(message.param3) << 24
            return self._mode_by_number(number)
        if command == mavlink.MAV_CMD_NAV_TAKEOFF:
            return self._take_off(place[2])
        if command == mavlink.MAV_CMD_NAV_LAND:
            return self._set_mode("LAND")
        if command == mavlink.MAV_CMD_NAV_RETURN_TO_LAUNCH:
            return self._set_mode("RTL")
        if command == mavlink.MAV_CMD_MISSION_START:
            self._current = 0
            return bool(self.mission) and self.armed and self._set_mode("AUTO")
        if command == mavlink.MAV_CMD_DO_REPOSITION:
            east_m, north_m = self.frame.to_enu(place[0], place[1])
            self._set_mode("GUIDED" if "GUIDED" in self.modes else "LOITER")
            # PX4 takes AMSL here, in the global frame.
            self._target = np.array([east_m, north_m, place[2] - self.home[2]])
            return True
        if command == mavlink.MAV_CMD_DO_CHANGE_SPEED:
            self.speed_m_s = message.param2
            return True
        if command == mavlink.MAV_CMD_INJECT_FAILURE:
            return self._fail(int(message.param1), int(message.param2))
        return None

    def _take_off(self, altitude_m: float) -> bool:
        if not self.armed or (self.autopilot == "ardupilot" and self.mode != "GUIDED"):
            return False
        up_m = altitude_m - self.home[2] if self.autopilot == "px4" else altitude_m  # PX4 takes AMSL
        believed = self._position + self._error
        self._set_mode("TAKEOFF" if self.autopilot == "px4" else "GUIDED")
        self._target = np.array([believed[0], believed[1], up_m])
        return True

    def _fail(self, unit: int, kind: int) -> bool:
        if not self.parameters.get("SYS_FAILURE_EN") or unit != mavlink.FAILURE_UNIT_SENSOR_GPS:
            return False
        self.gnss = kind == mavlink.FAILURE_TYPE_OK
        return True

    def _set_interval(self, peer: _Peer, number: int, interval_us: float) -> bool:
        name = _message_name(number)
        if name in self.unknown or not hasattr(self, f"_send_{name.lower()}"):
            return False
        peer.intervals_s[name] = interval_us * 1e-6 if interval_us > 0 else 0.0
        return True


def _message_name(number: int) -> str:
    """GLOBAL_POSITION_INT for 33; empty for an unknown number."""
    kind = mavlink.mavlink_map.get(number)
    return "" if kind is None else kind.msgname


def _e7(degrees: float) -> int:
    return round(degrees * 1e7)


def _wrapped(angle_rad: float) -> float:
    return math.remainder(angle_rad, 2 * math.pi)


def _quaternion(roll: float, pitch: float, yaw: float) -> list[float]:
    """w, x, y, z of the FRD body in NED, by multiplying the three turns."""
    turns = [
        np.array([math.cos(angle / 2), *(math.sin(angle / 2) * np.eye(3)[axis])])
        for angle, axis in ((yaw, 2), (pitch, 1), (roll, 0))
    ]
    total = turns[0]
    for turn in turns[1:]:
        w, v, u, s = total[0], total[1:], turn[1:], turn[0]
        total = np.array([w * s - v @ u, *(w * u + s * v + np.cross(v, u))])
    return [float(part) for part in total]


def main() -> None:
    """Fly until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("autopilot", choices=("px4", "ardupilot"))
    parser.add_argument("--home", nargs=3, type=float, required=True, metavar=("LAT", "LON", "AMSL_M"))
    parser.add_argument("--peer", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--undulation-m", type=float, default=0.0)
    parser.add_argument("--agility", type=float, default=1.0)
    arguments = parser.parse_args()
    peers = [(host, int(port)) for host, _, port in (peer.rpartition(":") for peer in arguments.peer)]
    seen = 0
    with (
        MavlinkVehicle(
            arguments.autopilot,
            tuple(arguments.home),
            peers,
            undulation_m=arguments.undulation_m,
            agility=arguments.agility,
        ) as vehicle,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(0.2)
            for command in vehicle.commands[seen:]:
                print(command, flush=True)
            seen = len(vehicle.commands)


if __name__ == "__main__":
    main()
