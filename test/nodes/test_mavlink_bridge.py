# SPDX-License-Identifier: Apache-2.0
"""mavlink_bridge in the graph, with a vehicle that speaks MAVLink over real UDP on the other side."""

import math
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import Spinner, parameters, until
from mavlink_vehicle import MavlinkVehicle
from nav_msgs.msg import Odometry
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, NavSatFix
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.bench.px4_peer import ScriptedLocalizer
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.localization.state import State
from geoloc_ros.messages.odometry import odometry_from_filter
from geoloc_ros.messages.reading import gnss_from_fix, quaternion_from_imu
from geoloc_ros.messages.sensors import time_from_seconds
from geoloc_ros.messages.stamps import seconds_from_time
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.mavlink_bridge_node import MavlinkBridgeNode

# A point of NGA's own list of EGM96 undulations.
LAT_DEG, LON_DEG, UNDULATION_M = 46.8743190, 102.4487290, -43.575
GROUND_M = 1300.0  # above sea level
HOME = (LAT_DEG, LON_DEG, GROUND_M)
LATENCY_S = 0.2
TOPICS = {"imu": Imu, "altitude": Float64, "gnss": NavSatFix, "truth": NavSatFix, "truth_attitude": Imu}
FIX_MESSAGES = {"gps_input": "GPS_INPUT", "global_position_sensor": "GLOBAL_POSITION_SENSOR", "odometry": "ODOMETRY"}


class Rig:
    """A bridge, a localizer that says what it is told, and the vehicles of a test."""

    def __init__(self, spinner: Spinner) -> None:
        self.spinner = spinner
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.vehicles: list[MavlinkVehicle] = []
        self.localizer: ScriptedLocalizer = spinner.add(ScriptedLocalizer())
        self.heard: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
        self.diagnostics: list[DiagnosticStatus] = []
        listener = spinner.add(Node("listener"))
        for topic, kind in TOPICS.items():
            listener.create_subscription(kind, topic, self.heard[topic].append, best_effort(20))
        listener.create_subscription(DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.extend(m.status), 50)

    def vehicle(self, autopilot: str, **values: Any) -> MavlinkVehicle:
        """A vehicle that hovers 80 m over the ground, nose to 30 degrees."""
        vehicle = MavlinkVehicle(autopilot, HOME, [("127.0.0.1", self.port)], undulation_m=UNDULATION_M, **values)
        vehicle.place(100.0, 50.0, 80.0, yaw_deg=30.0)
        self.vehicles.append(vehicle.start())
        return vehicle

    def bridge(self, **values: Any) -> MavlinkBridgeNode:
        """The bridge, once it hears the localizer."""
        # A busy machine must not make good frames too old.
        values = {"connection": f"udpin:127.0.0.1:{self.port}", "max_age_s": 1.0, **values}
        self.node: MavlinkBridgeNode = self.spinner.add(MavlinkBridgeNode(parameter_overrides=parameters(**values)))
        until(lambda: self.localizer.heard, what="the bridge's subscriptions")
        return self.node

    def ready(self, bridge: MavlinkBridgeNode) -> None:
        until(lambda: not bridge._why_blocked(0.0), what="a bridge that can send")

    def told(self, text: str) -> DiagnosticStatus:
        """Wait for a diagnostic with such words that comes from now on."""
        begin = len(self.diagnostics)
        status: DiagnosticStatus = until(
            lambda: next((s for s in self.diagnostics[begin:] if text in s.message), None),
            what=f"'{text}' in {sorted({s.message for s in self.diagnostics[begin:]})}",
        )
        return status

    def value(self, key: str) -> str:
        """One value of the last diagnostics."""
        return str({pair.key: pair.value for pair in self.diagnostics[-1].values}[key])

    def sent(self, vehicle: MavlinkVehicle, **frame: Any) -> Any:
        """Have the localizer say a frame that must reach the vehicle, and return what did."""
        before = len(vehicle.received)
        self.localizer.frame(**frame)
        until(lambda: len(vehicle.received) > before, what=f"{frame} at the vehicle")
        return vehicle.received[-1][1]

    def held(self, vehicle: MavlinkVehicle, **frame: Any) -> None:
        """Have the localizer say a frame that must not reach the vehicle."""
        before = len(vehicle.received)
        counted = self.decided()
        self.localizer.frame(**frame)
        until(lambda: self.decided() > counted, what=f"{frame} decided")
        time.sleep(0.05)
        assert len(vehicle.received) == before

    def decided(self) -> int:
        """Frames that the gate has seen."""
        totals = self.node._fixes.gate.totals
        return int(totals.sent + sum(totals.held.values()))

    def fly_blind(self, vehicle: MavlinkVehicle, seconds: float, noise_m: float = 0.5) -> None:
        """The localizer sees where the vehicle really is, ten times a second, and says so a little later."""
        noise = random.Random(3)
        pending: deque[tuple[float, float, tuple[float, float, float]]] = deque()
        end_s = next_s = time.monotonic()
        end_s += seconds
        while time.monotonic() < end_s:
            if time.monotonic() >= next_s:
                next_s += 0.1
                lat_deg, lon_deg, up_m = vehicle.truth()
                lat_deg, lon_deg = (angle_deg + noise.gauss(0, noise_m) / 111e3 for angle_deg in (lat_deg, lon_deg))
                place = (lat_deg, lon_deg, GROUND_M + UNDULATION_M + up_m)
                pending.append((time.monotonic() + LATENCY_S, time.time(), place))
            while pending and pending[0][0] <= time.monotonic():
                _, stamp_s, place = pending.popleft()
                self.localizer.frame(stamp_s=stamp_s, place=place)
            time.sleep(0.005)

    def close(self) -> None:
        for vehicle in self.vehicles:
            vehicle.stop()


@pytest.fixture
def rig(spinner: Spinner) -> Iterator[Rig]:
    """A rig whose bridge and vehicles the test starts."""
    rig = Rig(spinner)
    yield rig
    rig.close()


def stamp_s(message: Any) -> float:
    return seconds_from_time(message.header.stamp)


def floats(message: Any) -> list[float]:
    """Every number of a MAVLink message."""
    values = message.to_dict().values()
    return [float(n) for v in values if not isinstance(v, str) for n in (v if isinstance(v, list) else [v])]


@pytest.mark.parametrize("autopilot", ["px4", "ardupilot"])
def test_what_comes_from_the_autopilot(rig: Rig, autopilot: str) -> None:
    rig.bridge(truth=True)
    vehicle = rig.vehicle(autopilot)
    until(lambda: all(len(found) >= 10 for found in rig.heard.values()), what="all topics")
    now_s = time.time()
    imu, truth = rig.heard["imu"][-1], rig.heard["truth"][-1]
    # Nose to 30 degrees from north: 60 from the east, counter-clockwise.
    turn = Rotation.from_quat(quaternion_from_imu(imu))
    assert turn.as_euler("ZYX", degrees=True) == pytest.approx([60.0, 0.0, 0.0], abs=1e-3)
    rates = imu.angular_velocity
    assert (rates.x, rates.y, rates.z) == pytest.approx((0.01, -0.02, -0.03))  # forward, left, up
    assert rig.heard["altitude"][-1].data == pytest.approx(80.0, abs=0.01)
    east_m, north_m = vehicle.frame.to_enu(truth.latitude, truth.longitude)
    assert (east_m, north_m) == pytest.approx((100.0, 50.0), abs=0.02)
    assert truth.altitude == pytest.approx(GROUND_M + UNDULATION_M + 80.0, abs=0.05)
    gnss = gnss_from_fix(rig.heard["gnss"][-1])
    assert gnss is not None
    assert vehicle.frame.to_enu(gnss.lat_deg, gnss.lon_deg) == pytest.approx((100.0, 50.0), abs=0.02)
    assert (gnss.altitude_m, gnss.sigma_m) == pytest.approx((truth.altitude, 1.5), abs=0.05)
    # Both of one moment, and of the moment that it was.
    assert stamp_s(rig.heard["truth_attitude"][-1]) == pytest.approx(stamp_s(truth), abs=0.2)
    stamps_s = {stamp_s(m) for m in rig.heard["truth_attitude"]} & {stamp_s(m) for m in rig.heard["truth"]}
    assert len(stamps_s) >= 8
    for message in (imu, truth):
        assert -0.3 < stamp_s(message) - now_s < 0.02
    vehicle.gnss = False
    until(lambda: gnss_from_fix(rig.heard["gnss"][-1]) is None, what="no gnss")


def test_attitude_turns_as_the_vehicle_does(rig: Rig) -> None:
    rig.bridge()
    vehicle = rig.vehicle("px4")
    vehicle.go(400.0, -200.0, 80.0)
    time.sleep(1.5)
    roll, pitch, yaw = vehicle.attitude_rad()
    assert math.hypot(roll, pitch) > math.radians(1.0)  # it tilts to speed up
    ned_from_frd = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
    enu_from_ned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    expected = Rotation.from_matrix(enu_from_ned @ ned_from_frd @ np.diag([1, -1, -1]))
    found = Rotation.from_quat(quaternion_from_imu(rig.heard["imu"][-1]))
    assert (expected.inv() * found).magnitude() < math.radians(6.0)  # a few samples old, it turns at 60 deg/s


def test_an_old_firmware_gives_its_attitude_in_angles(rig: Rig) -> None:
    rig.bridge(imu_rate_hz=25.0)
    vehicle = rig.vehicle("ardupilot", version=(3, 6, 0))
    vehicle.unknown = {"ATTITUDE_QUATERNION"}
    until(lambda: vehicle._peers[0].intervals_s.get("ATTITUDE") == pytest.approx(0.04), what="a request")
    until(lambda: len(rig.heard["imu"]) > 20, what="attitudes")
    turn = Rotation.from_quat(quaternion_from_imu(rig.heard["imu"][-1]))
    assert turn.as_euler("ZYX", degrees=True) == pytest.approx([60.0, 0.0, 0.0], abs=1e-3)


def test_a_px4_that_does_not_tell_its_version_counts_as_old(rig: Rig) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle("px4", version=(1, 18, 0))
    vehicle.unknown = {"AUTOPILOT_VERSION"}
    rig.ready(bridge)
    assert rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0)).get_type() == "ODOMETRY"


@pytest.mark.parametrize(
    ("autopilot", "version", "output"),
    [
        ("ardupilot", (4, 6, 0), "gps_input"),
        ("px4", (1, 18, 0), "global_position_sensor"),
        ("px4", (1, 16, 2), "odometry"),
    ],
)
def test_fixes_hold_a_vehicle_without_gnss(
    rig: Rig, autopilot: str, version: tuple[int, int, int], output: str
) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle(autopilot, version=version, drift_m_s=2.0)
    vehicle.speed_m_s = 20.0  # at which a fix that counts as of now is 4 m behind
    vehicle.place(100.0, 50.0, 80.0, velocity_m_s=(20.0, 0.0))
    vehicle.go(900.0, 50.0, 80.0)
    if autopilot == "ardupilot":
        vehicle.parameters["GPS2_DELAY_MS"] = LATENCY_S * 1e3
    if output == "global_position_sensor":
        vehicle.parameters["EKF2_AGP0_DELAY"] = LATENCY_S * 1e3
    rig.ready(bridge)
    until(lambda: vehicle.clocks_compared, what="TIMESYNC")
    vehicle.gnss = False
    rig.fly_blind(vehicle, 2.0)
    assert {m.get_type() for _, m in vehicle.received} == {FIX_MESSAGES[output]}
    assert vehicle.used >= 8
    assert vehicle.error_m() < 2.0  # 2 m/s of drift against ten corrections a second by 0.3 leave 0.7 m
    assert rig.value("output") == output
    if output == "global_position_sensor":
        assert LATENCY_S * 1e3 <= float(rig.value("agp_delay_ms")) < LATENCY_S * 1e3 + 100
    for _, message in vehicle.received:
        assert all(map(math.isfinite, floats(message)))
    until(lambda: vehicle.error_m() > 4.0, what="the drift of a vehicle that is not helped")


def test_only_good_fixes_and_jumps_on_relocalizations_only(rig: Rig) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle("px4", version=(1, 17, 0))
    rig.ready(bridge)
    place = (LAT_DEG, LON_DEG, 1400.0)
    first = rig.sent(vehicle, place=place, sigma_m=3.0)
    assert first.reset_counter == 0
    assert (first.x, first.y) == pytest.approx((0.0, 0.0), abs=0.01)
    assert first.z == pytest.approx(-(1400.0 - UNDULATION_M - GROUND_M), abs=0.05)
    assert first.pose_covariance[0] == pytest.approx(9.0)
    assert first.frame_id == mavlink.MAV_FRAME_LOCAL_NED
    for frame in (
        {"valid": False},
        {"place": (math.nan, LON_DEG, 1400.0)},
        {"age_s": 1.5},
        {"stamp_s": first.time_usec * 1e-6 - 0.01},  # before the last one
    ):
        rig.held(vehicle, **{"place": place, **frame})
    assert rig.sent(vehicle, place=place).reset_counter == 0  # a gap is no jump
    rig.held(vehicle, state=State.LOST, place=place)
    rig.held(vehicle, state=State.RELOCALIZING, place=place)
    assert rig.sent(vehicle, place=place).reset_counter == 1
    assert rig.sent(vehicle, place=place).reset_counter == 1


def test_a_jump_that_the_vehicle_did_not_fly_is_held(rig: Rig) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle("px4", version=(1, 17, 0))
    rig.ready(bridge)
    until(lambda: bridge._connection.counts["GLOBAL_POSITION_INT"] > 2, what="velocities")
    rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0))
    time.sleep(0.6)
    rig.held(vehicle, place=(LAT_DEG + 20.0 / 111e3, LON_DEG, 1400.0))
    assert rig.told("nothing is sent: jump").level == DiagnosticStatus.WARN
    assert rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0)).reset_counter == 0


def test_gps_input_is_complete(rig: Rig) -> None:
    """What ArduPilot arms with: a 3D fix, accuracy, six satellites, a low HDOP, the time, sea level."""
    bridge = rig.bridge()
    vehicle = rig.vehicle("ardupilot")
    rig.ready(bridge)
    message = rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0), sigma_m=3.0)
    assert (message.gps_id, message.fix_type, message.yaw) == (1, 3, 0)
    assert (message.lat, message.lon) == (round(LAT_DEG * 1e7), round(LON_DEG * 1e7))
    assert message.alt == pytest.approx(1400.0 - UNDULATION_M, abs=0.01)
    assert (message.horiz_accuracy, message.vert_accuracy) == pytest.approx((3.0, 3.0))
    assert message.satellites_visible >= 6
    assert 0 < message.hdop < 1.4
    assert message.ignore_flags == 8 | 16 | 32  # velocities and their accuracy
    weeks = (time.time() - 315964800 + 18) / 604800
    assert message.time_week + message.time_week_ms / 604.8e6 == pytest.approx(weeks, abs=1e-6)


def test_no_heading_is_sent_unless_asked_for(rig: Rig) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle("ardupilot")
    rig.ready(bridge)
    assert rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0), heading=(30.0, 0.5)).yaw == 0


def test_ardupilot_gets_the_heading_that_is_sure_enough(rig: Rig) -> None:
    bridge = rig.bridge(send_yaw=True, max_yaw_sigma_deg=2.0)
    vehicle = rig.vehicle("ardupilot")
    rig.ready(bridge)
    place = (LAT_DEG, LON_DEG, 1400.0)
    assert rig.sent(vehicle, place=place, heading=(30.25, 2.0)).yaw == 3025
    assert rig.sent(vehicle, place=place, heading=(0.0, 2.0)).yaw == 36000
    assert rig.sent(vehicle, place=place, heading=(30.25, 2.1)).yaw == 0
    assert rig.sent(vehicle, place=place).yaw == 0
    rig.held(vehicle, state=State.RELOCALIZING, place=place, heading=(30.25, 2.0))


def test_px4_gets_the_heading_or_is_told_that_there_is_none(rig: Rig) -> None:
    bridge = rig.bridge(send_yaw=True)
    vehicle = rig.vehicle("px4", version=(1, 17, 0))
    rig.ready(bridge)
    place = (LAT_DEG, LON_DEG, 1400.0)
    message = rig.sent(vehicle, place=place, heading=(38.0, 2.0))
    angles = Rotation.from_quat([*message.q[1:], message.q[0]]).as_euler("ZYX", degrees=True)
    assert angles == pytest.approx([38.0, 0.0, 0.0], abs=1e-3)  # PX4 itself says 30
    assert message.pose_covariance[20] == pytest.approx(math.radians(2.0) ** 2)
    message = rig.sent(vehicle, place=place, heading=(38.0, 9.0))
    assert all(map(math.isnan, message.q))
    assert message.pose_covariance[0] == pytest.approx(4.0)


def test_gps_input_carries_the_velocity_of_the_track(rig: Rig) -> None:
    """ArduPilot takes a velocity that is left out for zero, so it gets that of the localizer's filter."""
    bridge = rig.bridge()
    vehicle = rig.vehicle("ardupilot")
    rig.ready(bridge)
    tracks = rig.localizer.create_publisher(Odometry, "~/odometry", 1)
    until(lambda: tracks.get_subscription_count() > 0, what="the bridge's subscription")
    covariance = np.diag([1.0, 1.0, 0.25, 0.36])
    nose_west = Rotation.from_euler("Z", 180, degrees=True).as_matrix()
    track_s = time.time() - 0.3
    stamp, frames = time_from_seconds(track_s), ("map", "base_link")
    tracks.publish(odometry_from_filter((0, 0, 0), (3.0, -4.0), covariance, nose_west, stamp, frames))
    until(lambda: bridge._velocity, what="a velocity")
    place = (LAT_DEG, LON_DEG, 1400.0)
    message = rig.sent(vehicle, place=place)
    assert message.ignore_flags == 16  # the vertical one
    assert (message.vn, message.ve, message.speed_accuracy) == pytest.approx((-4.0, 3.0, 0.6))
    time.sleep(0.9)
    assert rig.sent(vehicle, place=place).ignore_flags == 8 | 16 | 32  # it is too old by now


def test_what_we_feed_does_not_come_back_as_gnss(rig: Rig) -> None:
    bridge = rig.bridge(gps_id=0)
    vehicle = rig.vehicle("ardupilot")
    vehicle.gnss = False
    vehicle.parameters |= {"GPS1_TYPE": 14, "GPS2_TYPE": 0}
    rig.ready(bridge)
    for _ in range(5):
        rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0))
    until(lambda: bridge._connection.counts["GPS_RAW_INT"] >= 10, what="GPS_RAW_INT")
    assert vehicle.fed[0].lat == round(LAT_DEG * 1e7)
    assert all(gnss_from_fix(fix) is None for fix in rig.heard["gnss"])


def test_survives_silence_and_restart(rig: Rig) -> None:
    bridge = rig.bridge(timeout_s=1.5)
    vehicle = rig.vehicle("px4", version=(1, 17, 0))
    rig.ready(bridge)
    place = (LAT_DEG, LON_DEG, 1400.0)
    rig.sent(vehicle, place=place)
    vehicle.silent = True
    assert rig.told("is silent for").level == DiagnosticStatus.ERROR
    rig.held(vehicle, place=place)
    vehicle.silent = False
    until(lambda: not bridge._why_blocked(0.0), what="the autopilot back")
    rig.sent(vehicle, place=place)
    vehicle.reboot()
    until(lambda: bridge._connection.meetings == 3, what="a restart")
    until(lambda: not bridge._why_blocked(0.0), what="the new origin")
    rig.heard["imu"].clear()
    rig.heard["altitude"].clear()
    until(lambda: len(rig.heard["imu"]) > 30 and len(rig.heard["altitude"]) > 5, what="full rates again")
    assert abs(stamp_s(rig.heard["imu"][-1]) - time.time()) < 0.3
    rig.sent(vehicle, place=place)


def test_garbage_and_others_on_the_link(rig: Rig) -> None:
    bridge = rig.bridge(target_system=7, system_id=7)
    vehicle = rig.vehicle("px4", system_id=7)
    other = rig.vehicle("ardupilot", system_id=3)
    other.place(900.0, 900.0, 20.0)
    noise = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        for size in (0, 1, 7, 300, 2000):
            liar.sendto(noise.randbytes(size), ("127.0.0.1", rig.port))
        # A ground station's heartbeat, and the head of a message whose rest never comes.
        station = mavlink.MAVLink(None, 255, 190)
        heartbeat = mavlink.MAVLink_heartbeat_message(mavlink.MAV_TYPE_GCS, 8, 0, 0, 4, 3).pack(station)
        liar.sendto(heartbeat + heartbeat[:9], ("127.0.0.1", rig.port))
    vehicle.send_bytes(noise.randbytes(50))
    rig.ready(bridge)
    until(lambda: len(rig.heard["altitude"]) > 10, what="heights")
    assert {round(m.data) for m in rig.heard["altitude"]} == {80}
    assert bridge._connection.counts["garbage"] > 0
    rig.sent(vehicle, place=(LAT_DEG, LON_DEG, 1400.0))
    assert not other.received
    assert not other.commands
    until(lambda: vehicle.heartbeats, what="a heartbeat of the bridge")
    assert {m.get_srcSystem() for _, m in vehicle.heartbeats} == {7}
    assert {m.get_srcComponent() for _, m in vehicle.heartbeats} == {191}
    until(lambda: rig.value("other_autopilots") == "3", what="the other autopilot told")


@pytest.mark.parametrize(
    ("autopilot", "values", "reason"),
    [
        ("px4", {"output": "gps_input"}, "PX4 does not take gps_input"),
        ("ardupilot", {"output": "odometry"}, "ArduPilot does not take odometry"),
        ("px4", {"output": "global_position_sensor"}, "1.18 is the first that does"),
        ("px4", {"target_system": 9}, "no heartbeat of system 9"),
    ],
)
def test_says_why_it_sends_nothing(rig: Rig, autopilot: str, values: dict[str, Any], reason: str) -> None:
    rig.bridge(**values)
    vehicle = rig.vehicle(autopilot, version=(1, 17, 0))
    assert rig.told(reason).level == DiagnosticStatus.ERROR
    rig.held(vehicle, place=(LAT_DEG, LON_DEG, 1400.0))


def test_a_fix_without_altitude_gets_the_autopilots_own(rig: Rig) -> None:
    bridge = rig.bridge()
    vehicle = rig.vehicle("ardupilot")
    rig.ready(bridge)
    until(lambda: math.isfinite(bridge._altitude_amsl_m), what="the autopilot's altitude")
    message = rig.sent(vehicle, place=(LAT_DEG, LON_DEG, math.nan))
    assert message.alt == pytest.approx(GROUND_M + 80.0, abs=0.1)


@pytest.mark.parametrize("url", ["14540", "udpin:127.0.0.1", "udp:1.2.3.4:5", "tcp:localhost:99999"])
def test_a_connection_that_makes_no_sense(url: str) -> None:
    with pytest.raises(GeolocError, match="give udpin:HOST:PORT"):
        MavlinkBridgeNode(parameter_overrides=parameters(connection=url))


def test_the_process_ends_in_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "geoloc_ros.nodes.mavlink_bridge_node", "--ros-args", "-p", "connection:=nonsense"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "connection 'nonsense' is not understood" in result.stderr
