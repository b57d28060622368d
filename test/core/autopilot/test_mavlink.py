# SPDX-License-Identifier: Apache-2.0
"""MAVLink in our frames and units against SciPy, pyproj and the calendar; links that are real, and that break."""

import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from pyproj import Transformer
from scipy.spatial.transform import Rotation

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.clock_offset import ClockOffset
from geoloc_ros.core.autopilot.fix_gate import Decision, Fix
from geoloc_ros.core.autopilot.mavlink_connection import Connection, ConnectionSettings
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.autopilot.mavlink_link import Endpoint
from geoloc_ros.core.autopilot.mavlink_messages import (
    Attitude,
    Heights,
    Velocity,
    attitude_from,
    global_position_sensor,
    gnss_from,
    gps_input,
    odometry,
    truth_from,
)
from geoloc_ros.core.autopilot.vehicle import Autopilot
from geoloc_ros.core.geometry.px4_frames import Origin, px4_local_m

ENU_FROM_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
FRD_FROM_FLU = np.diag([1.0, -1.0, -1.0])
# A point of NGA's own list of EGM96 undulations.
LAT_DEG, LON_DEG, UNDULATION_M = 46.8743190, 102.4487290, -43.575
LEVEL = Attitude((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))


def through_the_wire(message: Any) -> Any:
    """The message as the other side decodes it."""
    data = message.pack(mavlink.MAVLink(None, 1, 191))
    return mavlink.MAVLink(None).parse_buffer(data)[0]


def a_fix(stamp_s: float = 1.7e9, lat_deg: float = LAT_DEG, lon_deg: float = LON_DEG) -> Fix:
    covariance = np.array([[4.0, 1.5, 0.0], [1.5, 9.0, 0.0], [0.0, 0.0, 25.0]])
    return Fix(stamp_s, True, lat_deg, lon_deg, 1400.0, covariance)


def a_decision(reset_counter: int = 0, latency_s: float = 0.12) -> Decision:
    return Decision(True, "", reset_counter, 3.1, 5.0, latency_s)


# --- frames and units ---------------------------------------------------------------------------------------


def attitudes(roll: float, pitch: float, yaw: float) -> list[Any]:
    """One attitude in the four messages that carry one; rates 1, 2, 3 about forward, right, down."""
    x, y, z, w = (float(v) for v in Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_quat())
    state = mavlink.MAVLink_hil_state_quaternion_message(
        0, [w, x, y, z], 1.0, 2.0, 3.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    )
    return [
        mavlink.MAVLink_attitude_message(0, roll, pitch, yaw, 1.0, 2.0, 3.0),
        mavlink.MAVLink_attitude_quaternion_message(0, w, x, y, z, 1.0, 2.0, 3.0),
        state,
        mavlink.MAVLink_sim_state_message(w, x, y, z, 0, 0, 0, 0, 0, 0, 1.0, 2.0, 3.0, *[0] * 8),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (20, 0, 90), (-35, 50, 200), (170, -80, -60)])
def test_attitude_is_that_of_the_matrices(kind: int, angles_deg: tuple[float, ...]) -> None:
    roll, pitch, yaw = np.radians(angles_deg)
    attitude = attitude_from(through_the_wire(attitudes(roll, pitch, yaw)[kind]))
    ned_from_frd = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
    expected = ENU_FROM_NED @ ned_from_frd @ FRD_FROM_FLU
    np.testing.assert_allclose(Rotation.from_quat(attitude.quaternion).as_matrix(), expected, atol=1e-6)
    assert attitude.rates_rad_s == (1.0, -2.0, -3.0)
    assert attitude.cos_tilt == pytest.approx(math.cos(roll) * math.cos(pitch), abs=1e-6)


def test_gnss_of_the_receiver() -> None:
    def raw(fix_type: int, ellipsoidal_mm: int, accuracy_mm: int) -> Any:
        return mavlink.MAVLink_gps_raw_int_message(
            0, fix_type, round(LAT_DEG * 1e7), round(LON_DEG * 1e7), 1_400_000, 80, 120, 0, 0, 12,
            ellipsoidal_mm, accuracy_mm, 2 * accuracy_mm,
        )  # fmt: skip

    told = gnss_from(through_the_wire(raw(3, 1_356_500, 1500)))
    assert told is not None
    assert (told.lat_deg, told.lon_deg) == pytest.approx((LAT_DEG, LON_DEG), abs=1e-7)
    assert (told.altitude_m, told.sigma_m, told.altitude_sigma_m) == pytest.approx((1356.5, 1.5, 3.0))
    untold = gnss_from(through_the_wire(raw(4, 0, 0)))
    assert untold is not None
    assert untold.altitude_m == pytest.approx(1400.0 + UNDULATION_M, abs=0.05)
    assert math.isnan(untold.sigma_m)
    for fix_type in (0, 1, 2):
        assert gnss_from(through_the_wire(raw(fix_type, 1_356_500, 1500))) is None


@pytest.mark.parametrize("has_integers", [True, False])
def test_truth_of_ardupilots_simulator_is_in_other_units_than_the_standard_says(has_integers: bool) -> None:
    integers = (round(LAT_DEG * 1e7), round(LON_DEG * 1e7)) if has_integers else (0, 0)
    message = mavlink.MAVLink_sim_state_message(
        *[0.0] * 13, LAT_DEG * 1e7, LON_DEG * 1e7, 1400.0, *[0.0] * 5, *integers
    )
    place = truth_from(through_the_wire(message))
    tolerance = 1e-7 if has_integers else 4e-6  # a float32 near 1e9 is in steps of 64
    assert (place.lat_deg, place.lon_deg) == pytest.approx((LAT_DEG, LON_DEG), abs=tolerance)
    assert place.altitude_m == pytest.approx(1400.0 + UNDULATION_M, abs=0.05)


def test_height_comes_from_the_best_source_that_speaks() -> None:
    def distance(cm: int, orientation: int = mavlink.MAV_SENSOR_ROTATION_PITCH_270) -> Any:
        return mavlink.MAVLink_distance_sensor_message(0, 20, 5000, cm, 0, 0, orientation, 0)

    def altitude(relative_m: float, bottom_m: float) -> Any:
        return mavlink.MAVLink_altitude_message(0, 0, 0, 0, relative_m, -2000, bottom_m)

    position = mavlink.MAVLink_global_position_int_message(0, 0, 0, 0, 60_000, 0, 0, 0, 0)
    local = mavlink.MAVLink_local_position_ned_message(0, 0, 0, -58.0, 0, 0, 0)
    heights = Heights()
    assert heights.height_m(local, 1.0, 0.0) == 58.0
    assert heights.height_m(position, 1.0, 0.1) == 60.0
    assert heights.height_m(local, 1.0, 0.2) is None  # the better one spoke just now
    assert heights.height_m(altitude(61.0, -1.0), 1.0, 0.3) == 61.0
    assert heights.height_m(altitude(61.0, 40.5), 1.0, 0.4) == 40.5
    assert heights.height_m(altitude(61.0, -1.0), 1.0, 0.5) is None
    assert heights.height_m(distance(4200), math.cos(0.5), 0.6) == pytest.approx(42.0 * math.cos(0.5))
    assert heights.height_m(altitude(61.0, 40.5), 1.0, 0.7) is None
    assert heights.height_m(distance(5000), 1.0, 0.8) is None  # at its limit it sees nothing
    assert heights.height_m(distance(4200, mavlink.MAV_SENSOR_ROTATION_NONE), 1.0, 0.8) is None
    assert heights.height_m(position, 1.0, 3.0) == 60.0  # all others have fallen silent
    assert heights.source == "GLOBAL_POSITION_INT"
    assert heights.height_m(altitude(math.nan, -1.0), 1.0, 3.1) is None


# --- fixes on the wire --------------------------------------------------------------------------------------


def numbers(message: Any) -> list[float]:
    values = (v for v in message.to_dict().values() if not isinstance(v, str))
    return [float(n) for v in values for n in (v if isinstance(v, list) else [v])]


def test_gps_input_has_gps_time() -> None:
    # Week 2296 of GPS began on 7 January 2024, and GPS is 18 s ahead of UTC.
    stamp = datetime(2024, 1, 6, 23, 59, 42, 250_000, tzinfo=timezone.utc)
    message = through_the_wire(gps_input(a_fix(stamp.timestamp()), a_decision(), 1, None))
    assert (message.time_week, message.time_week_ms) == (2296, 250)
    assert message.time_usec == round(stamp.timestamp() * 1e6)
    assert (message.lat, message.lon) == (468743190, 1024487290)
    assert (message.alt, message.gps_id, message.fix_type, message.yaw) == (1400.0, 1, 3, 0)
    assert (message.horiz_accuracy, message.vert_accuracy) == pytest.approx((3.1, 5.0))
    assert all(map(math.isfinite, numbers(message)))
    simulated = through_the_wire(gps_input(a_fix(12.5), a_decision(), 0, None))
    assert (simulated.time_week, simulated.time_week_ms) == (0, 0)


@pytest.mark.parametrize(
    ("heading_deg", "yaw_cdeg"),
    [(math.nan, 0), (0.0, 36000), (0.004, 36000), (359.996, 36000), (360.0, 36000), (0.01, 1), (271.25, 27125)],
)
def test_gps_input_has_a_heading_where_the_gate_gives_one(heading_deg: float, yaw_cdeg: int) -> None:
    decision = replace(a_decision(), heading_deg=heading_deg, sigma_heading_deg=1.0)
    assert through_the_wire(gps_input(a_fix(), decision, 1, None)).yaw == yaw_cdeg


def test_gps_input_says_what_it_does_not_know() -> None:
    unknown = mavlink.GPS_INPUT_IGNORE_FLAG_VEL_VERT
    message = through_the_wire(gps_input(a_fix(), a_decision(), 1, Velocity(3.0, -4.0, 0.7)))
    assert message.ignore_flags == unknown
    assert (message.vn, message.ve, message.speed_accuracy) == pytest.approx((-4.0, 3.0, 0.7))
    unknown |= mavlink.GPS_INPUT_IGNORE_FLAG_VEL_HORIZ | mavlink.GPS_INPUT_IGNORE_FLAG_SPEED_ACCURACY
    assert through_the_wire(gps_input(a_fix(), a_decision(), 1, None)).ignore_flags == unknown


def test_global_position_sensor_says_when_the_picture_was() -> None:
    message = through_the_wire(global_position_sensor(a_fix(), a_decision(latency_s=0.12), (7, 1), 3))
    assert message.time_usec - message.processing_time == 1_700_000_000_000_000
    assert message.processing_time == 120_000
    assert (message.target_system, message.target_component, message.id, message.source) == (7, 1, 3, 2)
    assert (message.lat, message.lon, message.alt) == (468743190, 1024487290, 1400.0)
    assert message.alt_ellipsoid == pytest.approx(1400.0 + UNDULATION_M, abs=0.05)
    assert (message.eph, message.epv) == pytest.approx((3.1, 5.0))
    assert all(map(math.isfinite, numbers(message)))


def test_odometry_is_in_px4s_local_frame() -> None:
    origin = Origin(LAT_DEG - 0.01, LON_DEG + 0.02, 1300.0)
    # Nose to the east, banked to the right by 20 degrees: FRD to NED.
    x, y, z, w = Rotation.from_euler("ZYX", [90, 0, 20], degrees=True).as_quat()
    attitude = attitude_from(mavlink.MAVLink_attitude_quaternion_message(0, w, x, y, z, 0.1, 0.2, 0.3))
    message = through_the_wire(odometry(a_fix(), a_decision(reset_counter=255), origin, attitude))
    assert message.z == -100.0
    assert 1111 < message.x < 1113
    assert message.q == pytest.approx([w, x, y, z], abs=1e-6)
    # North, east, down: the fix has variances 4 east and 9 north.
    assert [message.pose_covariance[n] for n in (0, 1, 6, 11)] == [9.0, 1.5, 4.0, 25.0]
    assert message.reset_counter == 255
    assert message.time_usec == 1_700_000_000_000_000
    assert 0 < message.quality <= 100
    # Nothing of what the fix does not know may weigh anything.
    assert min(message.pose_covariance[n] for n in (15, 18, 20)) > 1e5
    assert min(message.velocity_covariance[n] for n in (0, 6, 11, 15, 18, 20)) > 1e5
    assert all(map(math.isfinite, numbers(message)))


def test_odometry_with_a_heading_keeps_the_vehicles_tilt() -> None:
    origin = Origin(LAT_DEG, LON_DEG, 1300.0)
    x, y, z, w = Rotation.from_euler("ZYX", [90, 5, 20], degrees=True).as_quat()
    attitude = attitude_from(mavlink.MAVLink_attitude_quaternion_message(0, w, x, y, z, 0.0, 0.0, 0.0))
    decision = replace(a_decision(), heading_deg=102.5, sigma_heading_deg=2.0)
    message = through_the_wire(odometry(a_fix(), decision, origin, attitude))
    angles = Rotation.from_quat([*message.q[1:], message.q[0]]).as_euler("ZYX", degrees=True)
    assert angles == pytest.approx([102.5, 5.0, 20.0], abs=1e-4)
    assert message.pose_covariance[20] == pytest.approx(math.radians(2.0) ** 2)
    assert min(message.pose_covariance[n] for n in (15, 18)) > 1e5


def test_odometry_without_an_attitude_says_so() -> None:
    message = through_the_wire(odometry(a_fix(), a_decision(), Origin(LAT_DEG, LON_DEG, 1300.0), None))
    assert all(map(math.isnan, message.q))
    assert message.pose_covariance[20] > 1e5


@pytest.mark.parametrize("place", [(46.9, 102.3), (46.87431, 102.44872), (46.1, 103.6), (-33.0, -70.0)])
def test_px4s_projection_is_that_of_a_sphere(place: tuple[float, float]) -> None:
    origin = Origin(LAT_DEG, LON_DEG, 0.0)
    sphere = Transformer.from_crs(
        "+proj=longlat +R=6371000", f"+proj=aeqd +R=6371000 +lat_0={LAT_DEG} +lon_0={LON_DEG}", always_xy=True
    )
    east_m, north_m = sphere.transform(place[1], place[0])
    assert px4_local_m(*place, origin) == pytest.approx((north_m, east_m), rel=1e-9, abs=1e-6)
    assert px4_local_m(LAT_DEG, LON_DEG, origin) == (0.0, 0.0)


# --- clocks -------------------------------------------------------------------------------------------------


def test_clock_offset_is_right_though_messages_are_late() -> None:
    """A link that delays by 2 to 40 ms, longer one way, and a clock 50 ppm fast: right to a few milliseconds."""
    noise = random.Random(5)
    clock, true_offset_s = ClockOffset(), 1.7e9 - 5.0

    def boot_s(now_s: float) -> float:
        return (now_s - true_offset_s) * (1 + 50e-6)

    assert math.isnan(clock.offset_s)
    for tick in range(6000):
        now_s = 1.7e9 + tick * 0.02
        assert not clock.arrived(boot_s(now_s - 0.002 - noise.expovariate(100)), now_s)
        if tick % 50 == 0 and tick > 500:
            there_s, back_s = 0.002 + noise.expovariate(200), 0.002 + noise.expovariate(100)
            clock.round_trip(now_s - there_s - back_s, now_s, boot_s(now_s - back_s))
        if tick > 100:
            assert clock.offset_s + boot_s(now_s) == pytest.approx(now_s, abs=0.006)
    assert 0.004 <= clock.round_trip_s < 0.01


def clock_errors_s(boot_s: Callable[[float], float], seconds: float) -> list[float]:
    """By how much the stamps of messages that leave 50 times a second and take a while are ahead, after 3 s."""
    noise = random.Random(2)
    clock, errors_s = ClockOffset(), []
    for tick in range(round(seconds * 50)):
        now_s = 0.02 * tick + 0.001 + noise.expovariate(250)
        assert not clock.arrived(boot_s(0.02 * tick), 1.7e9 + now_s)
        errors_s += [boot_s(now_s) + clock.offset_s - 1.7e9 - now_s] if tick > 150 else []
    return errors_s


@pytest.mark.parametrize("rate", [0.985, 0.99, 1.012])
def test_a_clock_that_runs_slow_for_good_is_followed(rate: float) -> None:
    """As that of PX4's SIH: the least offset of 30 s would be 0.4 s behind."""
    errors_s = clock_errors_s(lambda now_s: 5.0 + rate * now_s, 60.0)
    assert -0.005 < min(errors_s) <= max(errors_s) < 0.01


def test_a_clock_that_is_put_right_in_steps_is_followed() -> None:
    """As PX4's stamps behind the DDS agent, which fall back until the agent compares the clocks anew."""
    errors_s = clock_errors_s(lambda now_s: 1.7e9 + now_s - 0.014 * (now_s % 11.5), 60.0)
    assert -0.01 < min(errors_s) <= max(errors_s) < 0.02


def test_a_simulator_that_stood_still_is_followed_within_seconds() -> None:
    errors_s = clock_errors_s(lambda now_s: 5.0 + now_s - (0.2 if now_s > 20.0 else 0.0), 30.0)
    assert max(map(abs, errors_s[-250:])) < 0.015  # the last 5 s
    assert max(map(abs, errors_s)) < 0.25


def test_clock_notices_a_restart_and_a_clock_that_was_set() -> None:
    clock = ClockOffset()
    for tick in range(100):
        clock.arrived(500.0 + tick * 0.1, 1000.0 + tick * 0.1)
    assert clock.offset_s == pytest.approx(500.0)
    assert not clock.arrived(509.5, 1010.0)  # out of order by a little
    assert clock.arrived(3.0, 1010.1)
    clock.arrived(3.1, 1010.2)
    assert clock.offset_s == pytest.approx(1007.1)
    assert not clock.arrived(3.2, 2010.3)  # our clock was set by 1000 s
    assert clock.offset_s == pytest.approx(2007.1)
    clock.round_trip(2010.5, 2010.4, 3.3)  # it was set back in between
    assert math.isnan(clock.round_trip_s)


# --- links --------------------------------------------------------------------------------------------------


def test_urls() -> None:
    assert Endpoint.parse("udpin:0.0.0.0:14540") == Endpoint("udpin", "0.0.0.0", 14540)
    assert Endpoint.parse("serial:/dev/ttyAMA0:921600") == Endpoint("serial", "/dev/ttyAMA0", 921600)
    for url in ("", "udp", "udpin:14540", "tcp:host:", "tcp:host:0", "udpout:host:70000", "serial:/dev/ttyACM0"):
        with pytest.raises(GeolocError, match=r"connection .* give udpin:HOST:PORT"):
            Endpoint.parse(url)


def test_half_a_message_of_one_sender_spoils_none_of_another() -> None:
    settings = ConnectionSettings("udpin:127.0.0.1:1", {})
    connection = Connection(settings, lambda *_: None, time.time, lambda _: None)
    data = mavlink.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3).pack(mavlink.MAVLink(None, 1, 1))
    liar, autopilot = ("127.0.0.1", 1000), ("127.0.0.1", 2000)
    assert connection._parse(data[:9], liar) == []
    assert [m.get_type() for m in connection._parse(data, autopilot)] == ["HEARTBEAT"]
    assert [m.get_type() for m in connection._parse(data[9:], liar)] == ["HEARTBEAT"]


def test_no_content_of_a_message_ends_the_connection() -> None:
    """Every message of the dialect with random bytes in it, from the autopilot itself."""
    heard: list[str] = []
    connection = Connection(
        ConnectionSettings("udpin:127.0.0.1:1", {"ATTITUDE_QUATERNION": 10.0}),
        lambda m, stamp_s: heard.append(m.get_type()),
        time.time,
        lambda _: None,
    )
    autopilot, address = mavlink.MAVLink(None, 1, 1), ("127.0.0.1", 2000)
    heartbeat = mavlink.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3)
    noise = random.Random(2)
    for number in sorted(mavlink.mavlink_map):
        for _ in range(3):
            message = mavlink.MAVLink_message(number, mavlink.mavlink_map[number].msgname)
            payload = noise.randbytes(mavlink.mavlink_map[number].unpacker.size)
            data = message._pack(autopilot, mavlink.mavlink_map[number].crc_extra, payload)
            for found in connection._parse(heartbeat.pack(autopilot) + data, address):
                connection._hear(found, address)
            connection._keep_up()
    assert connection.vehicle is not None
    assert len(set(heard)) > 250


class Autopilots:
    """The far end of a link, by hand: heartbeats and attitudes on request."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self.write = send
        self.mav = mavlink.MAVLink(self, 1, 1)
        self.booted_s = time.monotonic()

    def talk(self) -> None:
        self.mav.heartbeat_send(mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_PX4, 0, 0, mavlink.MAV_STATE_ACTIVE)
        boot_ms = int((time.monotonic() - self.booted_s) * 1e3)
        self.mav.attitude_quaternion_send(boot_ms, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Heard:
    """A connection and what it said."""

    def __init__(self, url: str) -> None:
        self.messages: list[str] = []
        self.words: list[str] = []
        settings = ConnectionSettings(url, {"ATTITUDE_QUATERNION": 10.0}, timeout_s=1.5)
        self.connection = Connection(
            settings, lambda m, _: self.messages.append(m.get_type()), time.time, self.words.append
        )
        self.connection.start()

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < end, f"{what}: {self.words}, {self.connection.problem()}"
            time.sleep(0.01)


@pytest.fixture
def hear() -> Iterator[Callable[[str], Heard]]:
    """hear(url): a connection that ends with the test."""
    opened: list[Heard] = []

    def start(url: str) -> Heard:
        opened.append(Heard(url))
        return opened[-1]

    yield start
    for heard in opened:
        heard.connection.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mavlink"]


def test_tcp_comes_and_goes(hear: Callable[[str], Heard]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    heard = hear(f"tcp:127.0.0.1:{port}")
    heard.until(lambda: "trying again" in heard.connection.problem(), "nobody there")
    for _ in range(2):
        with socket.create_server(("127.0.0.1", port)) as server:
            accepted, _ = server.accept()
            with accepted:
                autopilot = Autopilots(accepted.sendall)
                autopilot.talk()
                heard.until(lambda: not heard.connection.problem(), "an autopilot")
                # The heartbeat is ours, of an onboard computer.
                found = mavlink.MAVLink(None).parse_buffer(accepted.recv(4096))[0]
                assert (found.get_type(), found.type) == ("HEARTBEAT", mavlink.MAV_TYPE_ONBOARD_CONTROLLER)
        heard.until(lambda: "trying again" in heard.connection.problem(), "the end")
    assert heard.connection.vehicle is not None
    assert heard.connection.vehicle.autopilot == Autopilot.PX4


def test_serial_port(hear: Callable[[str], Heard]) -> None:
    """A pseudo-terminal is a serial port to pyserial; noise on the line costs no good message after it."""
    ours, theirs = os.openpty()
    heard = hear(f"serial:{os.ttyname(theirs)}:115200")
    heard.until(lambda: not heard.connection._fault, "an open port")
    autopilot = Autopilots(lambda data: os.write(ours, data))
    os.write(ours, bytes(range(1, 200)))
    for _ in range(3):
        autopilot.talk()
    heard.until(lambda: heard.messages.count("ATTITUDE_QUATERNION") >= 2, "attitudes")
    assert heard.connection.counts["garbage"] > 0
    message = mavlink.MAVLink_statustext_message(6, b"hello")
    heard.connection.send(message)
    data = b""
    parser = mavlink.MAVLink(None)
    parser.robust_parsing = True
    while b"hello" not in data:
        data += os.read(ours, 4096)
    assert "STATUSTEXT" in [m.get_type() for m in parser.parse_buffer(data)]
    os.close(theirs)
    os.close(ours)
    heard.until(lambda: "trying again" in heard.connection.problem(), "an unplugged port")


def test_nothing_waits_for_the_next_connection(hear: Callable[[str], Heard]) -> None:
    """What was to be sent while there was no connection is too old when there is one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    heard = hear(f"tcp:127.0.0.1:{port}")
    heard.until(lambda: "trying again" in heard.connection.problem(), "nobody there")
    heard.connection.send(mavlink.MAVLink_statustext_message(6, b"stale"))
    with socket.create_server(("127.0.0.1", port)) as server:
        accepted, _ = server.accept()
        with accepted:
            heard.until(lambda: "is open" in heard.words[-1], "the connection")
            heard.connection.send(mavlink.MAVLink_statustext_message(6, b"stale"), time.time() - 0.01)
            heard.connection.send(mavlink.MAVLink_statustext_message(6, b"fresh"), time.time() + 10.0)
            data = b""
            while b"fresh" not in data:
                data += accepted.recv(4096)
    assert b"stale" not in data
    assert heard.connection.counts["late"] == 1


def test_a_port_in_use_is_told(hear: Callable[[str], Heard]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"udpin:127.0.0.1:{taken.getsockname()[1]}"
        heard = hear(url)
        heard.until(lambda: "already in use" in heard.connection.problem(), "the reason")
    heard.until(lambda: "no heartbeat" in heard.connection.problem(), "the port once it is free")


def test_udpout_speaks_first(hear: Callable[[str], Heard]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.settimeout(5.0)
        heard = hear(f"udpout:127.0.0.1:{far.getsockname()[1]}")
        data, address = far.recvfrom(4096)
        assert mavlink.MAVLink(None).parse_buffer(data)[0].get_type() == "HEARTBEAT"
        Autopilots(lambda data: far.sendto(data, address)).talk()
        heard.until(lambda: "ATTITUDE_QUATERNION" in heard.messages, "attitude")
