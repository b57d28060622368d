# SPDX-License-Identifier: Apache-2.0
"""Cases of test_px4_bridge.py, run once for each version of px4_msgs: the bridge between PX4's part and a localizer."""

import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import Spinner, parameters, until
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, NavSatFix
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.bench.px4_peer import PX4_WRITES, REF_ALTITUDE_M, Px4Peer, ScriptedLocalizer
from geoloc_ros.core.geometry.px4_frames import enu_from_flu_quaternion
from geoloc_ros.core.localization.state import State
from geoloc_ros.messages.reading import gnss_from_fix, quaternion_from_imu
from geoloc_ros.messages.sensors import time_from_seconds
from geoloc_ros.messages.stamps import seconds_from_time
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.px4_bridge_node import Px4BridgeNode
from geoloc_ros.nodes.px4_topics import Px4Topics, px4_topics

VERSION = os.environ["PX4_VERSION"]
IS_NEW = VERSION == "1.18"
# A point of NGA's own list of EGM96 undulations.
PLACE, UNDULATION_M = (46.8743190, 102.4487290, 1500.0), -43.575

PATIENT_MS = 2000.0
"""So slow a machine may be and its fixes still pass, where age is not the matter."""

_NUMBERS = itertools.count()


class Rig:
    """PX4, bridge and localizer in a namespace of their own."""

    def __init__(self, spinner: Spinner) -> None:
        self.spinner = spinner
        self.fmu = f"/vehicle{next(_NUMBERS)}/fmu"
        self.topics = px4_topics("auto", self.fmu)
        self.diagnostics: list[DiagnosticStatus] = []
        self.latencies_s: list[float] = []
        self.localizer: ScriptedLocalizer
        self.px4: Px4Peer

    def start_bridge(self, ekf2_delay_max_ms: float = PATIENT_MS, **values: Any) -> Px4BridgeNode:
        values |= {"fmu_namespace": self.fmu, "ekf2_delay_max_ms": ekf2_delay_max_ms}
        bridge = Px4BridgeNode(parameter_overrides=parameters(**values))
        self.bridge: Px4BridgeNode = self.spinner.add(bridge)
        listener = self.spinner.add(Node("listener"))
        listener.create_subscription(DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.extend(m.status), 50)
        listener.create_subscription(Float64, "px4_bridge/latency", self.on_latency, 50)
        self.listener = listener
        return self.bridge

    def on_latency(self, message: Float64) -> None:
        self.latencies_s.append(message.data)

    def start_px4(self, **changes: Any) -> Px4Peer:
        self.px4 = self.spinner.add(Px4Peer(self.topics, **changes))
        return self.px4

    def start_localizer(self) -> ScriptedLocalizer:
        self.localizer = self.spinner.add(ScriptedLocalizer())
        until(lambda: self.localizer.heard, what="the bridge's subscriptions")
        return self.localizer

    def ready(self) -> None:
        """Wait until a fix would pass: PX4 listens and its clock is known."""
        until(lambda: not self.bridge._why_blocked(self.px4.now_s()), what="a bridge that can send")

    def sent(self, **frame: Any) -> Any:
        """Have the localizer say a frame that must reach PX4, and return what did."""
        before = len(self.px4.received)
        self.last_s = self.localizer.frame(**frame)
        until(lambda: len(self.px4.received) > before, what=f"{frame} at PX4")
        message = self.px4.received[-1].message
        assert abs(message.timestamp_sample - self.last_s * 1e6) <= 1
        return message

    def sent_at_last(self) -> Any:
        """Have the localizer say frames until one reaches PX4, and return what did."""
        before = len(self.px4.received)

        def has_arrived() -> bool:
            self.localizer.frame()
            time.sleep(0.1)
            return len(self.px4.received) > before

        until(has_arrived, what="a frame at PX4")
        return self.px4.received[before].message

    def held(self, reason: str, **frame: Any) -> None:
        """Have the localizer say a frame that must not reach PX4, and why."""
        before, count = len(self.px4.received), self.count(f"held: {reason}")
        self.localizer.frame(**frame)
        until(lambda: self.count(f"held: {reason}") == count + 1, what=f"{frame} held as {reason}")
        assert len(self.px4.received) == before

    def count(self, key: str) -> int:
        """A number of the bridge's last diagnostics."""
        for status in reversed(self.diagnostics):
            return int({pair.key: pair.value for pair in status.values}.get(key, "0"))
        return 0

    def told(self, text: str) -> DiagnosticStatus:
        """Wait for a diagnostic with such words."""
        return until(
            lambda: next((s for s in reversed(self.diagnostics) if text in s.message), None),
            what=f"'{text}' in {sorted({s.message for s in self.diagnostics})}",
        )


@pytest.fixture
def rig(spinner: Spinner) -> Iterator[Rig]:
    """A rig whose nodes the test starts."""
    return Rig(spinner)


@pytest.fixture
def ready_rig(rig: Rig) -> Rig:
    """A rig in which a good fix passes."""
    rig.start_px4()
    rig.start_bridge()
    rig.start_localizer()
    rig.ready()
    return rig


def test_topics_are_those_of_the_version(rig: Rig) -> None:
    assert rig.topics.attitude.name == f"{rig.fmu}/out/vehicle_attitude"
    assert rig.topics.local_position.name == f"{rig.fmu}/out/vehicle_local_position_v1"
    aux, kind = ("aux_global_position_v1", "Aux") if IS_NEW else ("aux_global_position", "Vehicle")
    assert rig.topics.aux.name == f"{rig.fmu}/in/{aux}"
    assert rig.topics.aux.kind.__name__ == f"{kind}GlobalPosition"
    assert px4_topics(VERSION, rig.fmu) == rig.topics


def test_version_that_px4_msgs_is_not_of(rig: Rig) -> None:
    wrong = "1.16" if IS_NEW else "1.18"
    with pytest.raises(GeolocError, match=f"px4_version is {wrong}: build the branch .* named as the firmware"):
        rig.start_bridge(px4_version=float(wrong))  # as `-p px4_version:=1.16` gives it
    with pytest.raises(GeolocError, match="px4_version is 'newest'; it must be one of"):
        rig.start_bridge(px4_version="newest")


@pytest.mark.parametrize("fmu", ["fmu", "/fmu/", ""])
def test_namespace_that_is_no_full_name(fmu: str) -> None:
    with pytest.raises(GeolocError, match="give a full name such as /fmu"):
        px4_topics("auto", fmu)


def test_a_fix_as_px4_gets_it(ready_rig: Rig) -> None:
    message = ready_rig.sent(place=PLACE, sigma_m=1.5)
    assert (message.lat, message.lon) == PLACE[:2]
    assert message.alt == pytest.approx(PLACE[2] - UNDULATION_M, abs=0.1)
    assert message.timestamp == 0
    assert message.eph == pytest.approx(1.5)
    assert message.epv == pytest.approx(3.0)
    assert message.lat_lon_reset_counter == 0
    if IS_NEW:
        assert (message.id, message.source) == (1, type(message).SOURCE_VISION)
    else:
        assert message.alt_ellipsoid == pytest.approx(PLACE[2], abs=0.01)
        assert message.lat_lon_valid and message.alt_valid
    ready_rig.told("sending fixes")
    until(lambda: ready_rig.latencies_s, what="latency")
    assert 0.05 <= ready_rig.latencies_s[-1] < 2.09


def test_an_altitude_that_we_do_not_know_is_px4s_own(ready_rig: Rig) -> None:
    message = ready_rig.sent(place=(*PLACE[:2], math.nan))
    assert message.alt == pytest.approx(REF_ALTITUDE_M + 50.0)
    ready_rig.px4.local_position["z_global"] = False
    time.sleep(0.2)
    ready_rig.held("not finite", place=(*PLACE[:2], math.nan))


def test_no_heading_is_sent_unless_asked_for(ready_rig: Rig) -> None:
    ready_rig.sent(heading=(30.0, 1.0))
    assert ready_rig.listener.count_publishers(ready_rig.topics.odometry.name) == 0


def test_a_heading_reaches_px4_with_its_own_tilt_in_its_local_frame(rig: Rig) -> None:
    px4 = rig.start_px4()
    rig.start_bridge(send_yaw=True, max_yaw_sigma_deg=2.0)
    rig.start_localizer()
    rig.ready()
    until(lambda: rig.bridge._odometry.get_subscription_count() > 0, what="PX4 that listens to odometry")
    x, y, z, w = Rotation.from_euler("ZYX", [90, 5, 20], degrees=True).as_quat()
    px4.attitude_wxyz = (w, x, y, z)
    rig.sent(place=PLACE, heading=(97.5, 1.0))  # PX4 has no local frame yet
    px4.local_position |= {"xy_global": True, "ref_lat": PLACE[0] - 0.01, "ref_lon": PLACE[1]}
    until(lambda: rig.bridge._origin, what="PX4's origin")
    until(lambda: rig.bridge._attitude[2] == pytest.approx(enu_yaw_z(px4), abs=1e-6), what="PX4's attitude")
    rig.sent(place=PLACE, heading=(97.5, 2.5))  # not sure enough
    rig.sent(place=PLACE, heading=(math.nan, 1.0))
    rig.sent(place=PLACE, heading=(97.5, 1.0), heading_residual_deg=-2.5)  # contradicted by the frame itself
    rig.held("not confirmed", state=State.RELOCALIZING, heading=(97.5, 1.0))
    rig.sent(place=PLACE, heading=(97.5, 1.0))
    message = until(lambda: px4.odometry, what="odometry")[0]
    assert len(px4.odometry) == 1
    assert abs(message.timestamp_sample - rig.last_s * 1e6) <= 1
    assert (message.timestamp, message.pose_frame) == (0, type(message).POSE_FRAME_NED)
    angles = Rotation.from_quat([*message.q[1:], message.q[0]]).as_euler("ZYX", degrees=True)
    assert angles == pytest.approx([97.5, 5.0, 20.0], abs=1e-3)
    assert np.linalg.norm(message.q) == pytest.approx(1.0, abs=1e-6)  # EKF2 refuses any that is off by 1e-5
    assert message.orientation_variance[2] == pytest.approx(math.radians(1.0) ** 2)
    assert message.orientation_variance[0] > 1e5
    down_m = REF_ALTITUDE_M - (PLACE[2] - UNDULATION_M)
    north_m = 6_371_000.0 * math.radians(0.01)  # PX4's sphere
    assert message.position == pytest.approx([north_m, 0.0, down_m], abs=0.2)
    assert message.position_variance == pytest.approx([4.0, 4.0, 9.0])
    assert all(map(math.isnan, message.velocity))
    rig.held("lost", state=State.LOST, valid=False)
    rig.sent(place=PLACE, heading=(97.5, 1.0))
    until(lambda: len(px4.odometry) == 2, what="odometry of a new track")
    assert px4.odometry[1].reset_counter == message.reset_counter + 1


def test_what_is_never_sent(ready_rig: Rig) -> None:
    ready_rig.sent()
    ready_rig.held("no fix", valid=False)
    ready_rig.held("not finite", place=(math.nan, 8.5, 500.0))
    ready_rig.held("not finite", sigma_m=math.nan)
    ready_rig.sent()
    ready_rig.held("twice", stamp_s=ready_rig.last_s)
    ready_rig.held("out of order", stamp_s=ready_rig.last_s - 0.01)
    ready_rig.held("from the future", age_s=-5.0)
    ready_rig.sent()
    until(lambda: ready_rig.count("sent") == 3, what="three sent")


def test_a_fix_that_ekf2_would_not_fuse_is_held_and_told(rig: Rig) -> None:
    rig.start_px4()
    rig.start_bridge(ekf2_delay_max_ms=200.0)
    rig.start_localizer()
    rig.ready()
    rig.held("too old", age_s=0.295)  # EKF2's 300 ms less the way
    status = rig.told("nothing is sent: too old")
    assert status.level == DiagnosticStatus.WARN
    values = {pair.key: pair.value for pair in status.values}
    assert values["latency_limit_s"] == "0.29"
    assert float(values["latency_s"]) >= 0.295
    until(lambda: rig.latencies_s and rig.latencies_s[-1] >= 0.295, what="latency")


def test_the_counter_moves_on_relocalizations_only(ready_rig: Rig) -> None:
    ready_rig.held("no prior", state=State.UNINITIALIZED, valid=False)
    ready_rig.held("not confirmed", state=State.RELOCALIZING, valid=False)
    counters = []
    for state in (State.LOST, State.RELOCALIZING):
        for _ in range(2):
            counters.append(ready_rig.sent().lat_lon_reset_counter)
            ready_rig.held("no fix", valid=False)
        ready_rig.held("lost" if state == State.LOST else "not confirmed", state=state, valid=True)
    counters.append(ready_rig.sent().lat_lon_reset_counter)
    assert counters == [0, 0, 1, 1, 2]


def test_a_jump_that_px4_did_not_fly_is_held(rig: Rig) -> None:
    rig.start_px4().local_position |= {"v_xy_valid": True}
    rig.start_bridge()
    rig.start_localizer()
    rig.ready()
    rig.sent(place=PLACE)
    time.sleep(0.6)
    rig.held("jump", place=(PLACE[0] + 20.0 / 111e3, *PLACE[1:]))
    assert rig.sent(place=PLACE).lat_lon_reset_counter == 0


def test_px4_may_come_last_go_and_come_back(rig: Rig) -> None:
    rig.start_bridge()
    rig.start_localizer()
    rig.localizer.frame()
    rig.told("PX4 does not listen")
    rig.start_px4()
    rig.ready()
    rig.sent()
    rig.spinner.remove(rig.px4)
    until(lambda: rig.bridge._why_blocked(seconds(rig.localizer)))
    rig.localizer.frame()
    rig.start_px4()
    rig.ready()
    rig.sent()


def test_a_clock_of_its_own_is_refused_until_it_is_in_step(rig: Rig) -> None:
    px4 = rig.start_px4(booted_s=time.time() - 100.0)
    rig.start_bridge()
    rig.start_localizer()
    status = rig.told("UXRCE_DDS_SYNCT")
    assert status.level == DiagnosticStatus.ERROR
    imus: list[Imu] = []
    rig.listener.create_subscription(Imu, "imu", imus.append, best_effort(10))
    time.sleep(0.3)
    assert not imus  # its stamp would lie
    rig.held("autopilot not ready")
    px4.booted_s = 0.0
    rig.ready()
    rig.sent()


def test_a_clock_that_falls_behind_is_followed(rig: Rig) -> None:
    """PX4's SIH runs slow, and its stamps come up to 0.18 s late before its client compares the clocks again."""
    px4 = rig.start_px4(booted_s=0.17)
    rig.start_bridge()
    rig.start_localizer()
    ages_s: list[float] = []
    rig.listener.create_subscription(Imu, "imu", lambda m: ages_s.append(seconds(px4) - stamp_s(m)), best_effort(10))
    rig.ready()
    until(lambda: len(ages_s) > 20, what="attitudes")
    assert min(ages_s) < 0.1
    before, stamp = len(px4.received), rig.localizer.frame()
    until(lambda: len(px4.received) > before, what="the fix")
    # On PX4's clock: its client takes it off again.
    assert px4.received[-1].message.timestamp_sample * 1e-6 == pytest.approx(stamp - 0.17, abs=0.06)
    px4.booted_s = 0.0
    rig.sent_at_last()


def test_simulated_time_that_starts_anew(rig: Rig) -> None:
    """On /clock, PX4 with it; after a restart of the simulation the next fix is that of a new track."""
    simulated = parameters(use_sim_time=True)
    clock = rig.spinner.add(Node("clock"))
    publisher, begun = clock.create_publisher(Clock, "/clock", 10), time.monotonic()
    start_s = [1000.0]

    def tick() -> None:
        publisher.publish(Clock(clock=time_from_seconds(start_s[0] + time.monotonic() - begun)))

    clock.create_timer(0.02, tick)
    rig.start_px4(parameter_overrides=simulated)
    rig.start_bridge(use_sim_time=True)
    rig.localizer = rig.spinner.add(ScriptedLocalizer(parameter_overrides=simulated))
    nodes = (rig.localizer, rig.px4, rig.bridge)
    until(lambda: rig.localizer.heard and all(map(seconds, nodes)), what="the simulation")
    rig.ready()
    assert rig.sent().lat_lon_reset_counter == 0
    time.sleep(0.05)  # the clock ticks
    assert rig.sent().timestamp_sample > 1_000_000_000
    start_s[0] = 5.0
    until(lambda: all(seconds(node) < 900.0 for node in nodes), what="the restart")
    rig.held("no prior", state=State.UNINITIALIZED, valid=False)
    # A message that PX4 stamped before its clock went back puts the clocks out of step for a while.
    message = rig.sent_at_last()
    assert message.timestamp_sample < 900_000_000
    assert message.lat_lon_reset_counter == 1


def test_messages_of_another_version_are_refused(rig: Rig) -> None:
    """PX4 in the graph, but on topics of the other version."""
    other = px4_topics("auto", rig.fmu)
    local = replace(other.local_position, name=other.local_position.unversioned)
    aux = replace(other.aux, name=other.aux.unversioned + ("" if IS_NEW else "_v1"))
    rig.topics = Px4Topics(other.attitude, local, other.gps, aux, other.odometry)
    rig.start_px4()
    rig.start_bridge()
    rig.start_localizer()
    status = rig.told(f"PX4 sends {local.name}, but px4_msgs here has {other.local_position.name}")
    assert status.level == DiagnosticStatus.ERROR
    assert "build the branch" in status.message
    rig.held("autopilot not ready")


def test_both_ends_agree_on_how_topics_are_sent(ready_rig: Rig) -> None:
    node, topics = ready_rig.listener, ready_rig.topics
    (ours,) = node.get_publishers_info_by_topic(topics.aux.name)
    assert ours.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert ours.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    # A listener that asks for as much durability as PX4 gives hears it, too.
    heard: list[Any] = []
    node.create_subscription(topics.aux.kind, topics.aux.name, heard.append, PX4_WRITES)
    until(lambda: ready_rig.bridge._aux.get_subscription_count() == 2, what="two listeners")
    ready_rig.sent()
    until(lambda: heard, what="the durable listener's sample")
    # PX4's topics that are not durable are heard as well, as those of a translation node.
    volatile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    extra = node.create_publisher(topics.gps.kind, topics.gps.name, volatile)
    until(lambda: extra.get_subscription_count() == 1, what="the bridge's subscription")


def test_attitude_height_and_gnss_of_px4(ready_rig: Rig) -> None:
    px4, listener = ready_rig.px4, ready_rig.listener
    imus: list[Imu] = []
    heights_m: list[float] = []
    fixes: list[NavSatFix] = []
    listener.create_subscription(Imu, "imu", imus.append, best_effort(10))
    listener.create_subscription(Float64, "altitude", lambda m: heights_m.append(m.data), best_effort(10))
    listener.create_subscription(NavSatFix, "gnss", fixes.append, best_effort(10))
    # Nose to the east, banked to the right by 20 degrees, in PX4's frames.
    ned_from_frd = Rotation.from_euler("ZYX", [90, 0, 20], degrees=True)
    x, y, z, w = ned_from_frd.as_quat()
    px4.attitude_wxyz = (w, x, y, z)
    begun_s = px4.now_s()
    imu = until(lambda: next((m for m in imus if stamp_s(m) > begun_s + 0.05), None), what="imu")
    enu_from_flu = Rotation.from_quat(quaternion_from_imu(imu))
    np.testing.assert_allclose(enu_from_flu.apply([1, 0, 0]), [1, 0, 0], atol=1e-6)  # nose east
    left = [0, math.cos(math.radians(20)), math.sin(math.radians(20))]  # the left wing north and up
    np.testing.assert_allclose(enu_from_flu.apply([0, 1, 0]), left, atol=1e-6)
    assert abs(px4.now_s() - stamp_s(imu)) < 2.0
    until(lambda: heights_m and heights_m[-1] == 50.0, what="height over take-off")
    px4.local_position |= {"dist_bottom_valid": True, "dist_bottom": 43.5}
    until(lambda: heights_m[-1] == 43.5, what="measured height")
    until(lambda: fixes and gnss_from_fix(fixes[-1]) is None, what="no gnss")
    px4.gps = {
        "fix_type": 3, "latitude_deg": 47.1, "longitude_deg": 8.2, "altitude_ellipsoid_m": 512.0,
        "altitude_msl_m": 465.0, "eph": 1.25, "epv": 2.0,
    }  # fmt: skip
    gnss = until(lambda: gnss_from_fix(fixes[-1]), what="gnss")
    assert (gnss.lat_deg, gnss.lon_deg, gnss.altitude_m, gnss.sigma_m) == (47.1, 8.2, 512.0, 1.25)
    px4.attitude_wxyz = (0.0, 0.0, 0.0, 0.0)
    time.sleep(0.2)
    before = len(imus)
    time.sleep(0.2)
    assert len(imus) == before  # no rotation, no attitude


def enu_yaw_z(px4: Px4Peer) -> float:
    """z of the quaternion, ENU from FLU, of PX4's attitude."""
    return enu_from_flu_quaternion(*px4.attitude_wxyz)[2]


def seconds(node: Node) -> float:
    return float(node.get_clock().now().nanoseconds * 1e-9)


def stamp_s(message: Any) -> float:
    return seconds_from_time(message.header.stamp)
