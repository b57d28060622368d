# SPDX-License-Identifier: Apache-2.0
"""The autopilot's end of each bridge, for the soak test: parameters of the bridge, and what arrived through it."""

import contextlib
import socket
import threading
import time
from typing import Any, Protocol

from rclpy.node import Node

from geoloc_ros.core.autopilot.bridge_soak import Arrived
from geoloc_ros.nodes.px4_topics import px4_topics

HEARTBEAT_S = 0.5
UDP_S = 0.01
"""Time that a packet on this machine may take; MAVLink does not stamp when it was sent."""


class End(Protocol):
    """One end. `node` and `parameters`: the bridge to start; `limit_s`: largest age of a fix when it is sent."""

    node: str
    parameters: dict[str, Any]
    limit_s: float
    nodes: tuple[Node, ...]  # to be spun

    def arrived(self) -> list[Arrived]:
        """What arrived, in order."""

    def close(self) -> None:
        """Leave."""


class Px4End:
    """PX4 by its DDS client, whose samples carry the time at which DDS sent them."""

    node = "px4_bridge"
    _NAMESPACE = "/bench/fmu"

    def __init__(self, limit_s: float) -> None:
        """GeolocError without px4_msgs."""
        from geoloc_ros.cli.bench.px4_peer import Px4Peer

        topics = px4_topics("auto", self._NAMESPACE)
        self.limit_s = limit_s
        self.parameters = {"fmu_namespace": self._NAMESPACE, "ekf2_delay_max_ms": (limit_s - 0.1) * 1e3}
        self._peer = Px4Peer(topics)
        self.nodes: tuple[Node, ...] = (self._peer,)

    def arrived(self) -> list[Arrived]:
        """The auxiliary global positions."""
        found = []
        for sample in self._peer.received:
            m = sample.message
            numbers = (m.lat, m.lon, float(m.alt), float(m.eph), float(m.epv))
            found.append(Arrived(m.timestamp_sample, sample.sent_s, numbers, m.lat_lon_reset_counter))
        return found

    def close(self) -> None:
        """Leave the graph."""
        self._peer.destroy_node()


class ArduPilotEnd:
    """ArduPilot by MAVLink over UDP: heartbeats out, GPS_INPUT in, which has no reset counter."""

    node = "mavlink_bridge"
    nodes: tuple[Node, ...] = ()

    def __init__(self, limit_s: float) -> None:
        """ImportError, with the remedy, without pymavlink."""
        from geoloc_ros.core.autopilot.mavlink_dialect import mavlink

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self._bridge = probe.getsockname()
        self.limit_s = limit_s + UDP_S
        self.parameters = {"connection": f"udpin:127.0.0.1:{self._bridge[1]}", "max_age_s": limit_s}
        self._found: list[Arrived] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(HEARTBEAT_S / 4)
        self._mav = mavlink.MAVLink(None, srcSystem=1, srcComponent=1)
        self._heartbeat = mavlink.MAVLink_heartbeat_message(
            mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA, 0, 0, mavlink.MAV_STATE_ACTIVE, 3
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due_s = 0.0
        while not self._ended.is_set():
            # An unreachable port comes back as an error of the next call.
            with contextlib.suppress(OSError):
                if time.monotonic() >= due_s:
                    due_s = time.monotonic() + HEARTBEAT_S
                    self._socket.sendto(self._heartbeat.pack(self._mav), self._bridge)
                data = self._socket.recv(65535)
                now_s = time.time()
                for message in self._mav.parse_buffer(data) or ():
                    if message.get_type() == "GPS_INPUT":
                        self._found.append(_from_gps_input(message, now_s))

    def arrived(self) -> list[Arrived]:
        """The positions."""
        return list(self._found)

    def close(self) -> None:
        """End the link."""
        self._ended.set()
        self._thread.join()
        self._socket.close()


def _from_gps_input(message: Any, now_s: float) -> Arrived:
    numbers = (
        message.lat * 1e-7, message.lon * 1e-7, message.alt, message.horiz_accuracy, message.vert_accuracy,
    )  # fmt: skip
    return Arrived(message.time_usec, now_s, numbers, None)


ENDS: dict[str, type[Px4End] | type[ArduPilotEnd]] = {"px4": Px4End, "mavlink": ArduPilotEnd}
