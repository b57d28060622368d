# SPDX-License-Identifier: Apache-2.0
"""Missions against a vehicle that speaks MAVLink over UDP: what they say, and that they always bring it home."""

import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.reporting.mission_report import figures, outcome, write_mission
from geoloc_ros.core.simulation import ground_station, mission, mission_recorder
from geoloc_ros.core.simulation.ground_station import GroundStation
from geoloc_ros.core.simulation.mission import Flown, Mission, MissionPlan, Progress
from geoloc_ros.core.simulation.mission_recorder import Recorder, Samples

# The tests are imported by path, and the vehicle lies with those of the graph.
sys.path.insert(0, str(Path(__file__).parents[2] / "nodes"))

from mavlink_vehicle import STREAMS_HZ, MavlinkVehicle, mavlink

HOME = (58.37, 26.73, 60.0)
PLAN = MissionPlan(
    pattern="line", size_m=100.0, height_m=20.0, speed_m_s=8.0, gnss_loss_s=0.3, max_error_m=8.0, needs_fixes=False
)


class Fixes:
    """As many as the test says."""

    def __init__(self, said: str = "") -> None:
        self.number, self.reported = 0, said

    def count(self) -> int:
        return self.number

    def diagnostics(self) -> str:
        return self.reported


class Flight:
    """One vehicle on its way up, and a mission for it that runs in this thread."""

    def __init__(self, autopilot: str, **options: Any) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.vehicle = MavlinkVehicle(autopilot, HOME, [("127.0.0.1", port)], agility=10.0, **options)
        self.recorder, self.fixes = Recorder(), Fixes()
        self.told: list[str] = []
        self.seen: list[Progress] = []
        self.station = GroundStation(f"udpin:127.0.0.1:{port}", self.recorder.take)

    def fly(self, plan: MissionPlan = PLAN, on_step: Callable[[Progress], None] = lambda _: None) -> Flown:
        def show(now: Progress) -> None:
            self.seen.append(now)
            on_step(now)

        return Mission(self.station, self.recorder, plan, self.fixes, self.told.append, show).fly()

    def has_gnss(self) -> bool:
        return self.vehicle._has_gnss()

    def close(self) -> None:
        self.station.close()
        self.vehicle.stop()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flight]]:
    """Flights with vehicles that hurry and, unless told otherwise, are up already; they end with the test."""
    hurried = {"CONNECT_S": 3.0, "READY_S": 2.0, "AGAIN_S": 0.3, "QUIET_S": 1.0, "FIRST_FIX_S": 1.5}
    for name, seconds in hurried.items():
        monkeypatch.setattr(mission, name, seconds)
    monkeypatch.setattr(mission_recorder, "QUIET_S", hurried["QUIET_S"])
    monkeypatch.setattr(ground_station, "ANSWER_S", 0.3)
    monkeypatch.setitem(STREAMS_HZ, "HEARTBEAT", 10.0)
    made: list[Flight] = []

    def make(autopilot: str = "px4", in_air: bool = True, **options: Any) -> Flight:
        made.append(Flight(autopilot, **options))
        if in_air:
            made[-1].vehicle.place(0.0, 0.0, PLAN.height_m)
        made[-1].vehicle.start()
        return made[-1]

    yield make
    for flight in made:
        flight.close()


def test_plan_says_what_does_not_fit() -> None:
    assert PLAN.duration_s == pytest.approx(_length_m(PLAN) / 8.0)
    for changes, message in (
        ({"pattern": "spiral"}, "pattern 'spiral' is unknown; use one of lawnmower, loop, line"),
        ({"height_m": 0.0}, "height_m is 0 m; it must be positive"),
        ({"speed_m_s": math.nan}, "speed_m_s is nan m/s"),
        ({"gnss_loss_s": 60.0}, f"GNSS would go after 60 s of {PLAN.duration_s:.0f} s; lose it at least 10 s before"),
    ):
        with pytest.raises(GeolocError, match=message):
            replace(PLAN, **changes)
    replace(PLAN, gnss_loss_s=math.inf)


def _length_m(plan: MissionPlan) -> float:
    """Along the corners from the take-off, leg by leg."""
    length_m, at = 0.0, (0.0, 0.0)
    for corner in plan.corners_m.tolist():
        length_m, at = length_m + math.dist(at, corner), corner
    return length_m


def test_flies_the_pattern_and_measures_the_estimate(
    make: Callable[..., Flight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corners are where the plan has them; the figures are what the vehicle knows of its own error."""
    monkeypatch.setattr(mission, "LEAST_WITHOUT_S", 2.0)
    flight = make("ardupilot", drift_m_s=1.0, failsafe_s=math.inf)
    plan = replace(PLAN, size_m=30.0, speed_m_s=12.0, gnss_loss_s=1.0, max_error_m=100.0)
    errors: list[tuple[float, float]] = []
    flown = flight.fly(plan, lambda now: errors.append((now.time_s, flight.vehicle.error_m())))
    assert flown.trouble == ""
    assert flight.vehicle.landed
    assert flight.vehicle.parameters["SIM_GPS1_ENABLE"] == 1
    frame = LocalEnu(*HOME[:2])
    corners = [frame.to_enu(item.x * 1e-7, item.y * 1e-7) for item in flight.vehicle.mission]
    np.testing.assert_allclose(corners, plan.corners_m, atol=0.02)
    assert {item.z for item in flight.vehicle.mission} == {20.0}
    assert flight.vehicle.speed_m_s == 12.0
    # The true error, seen from inside the vehicle, against the one from its messages.
    times_s, true_m = np.array(errors).T
    flying = times_s > 0  # NaN before the pattern began
    expected_m = np.interp(flown.samples.time_s, times_s[flying], true_m[flying])
    inside = (flown.samples.time_s > 0.2) & (flown.samples.time_s < flown.pattern_end_s)
    off_m = np.abs(flown.samples.error_m[inside] - expected_m[inside])
    assert np.quantile(off_m, 0.9) < 0.3
    assert off_m.max() < 1.5  # what it drifts while a busy machine holds one of the two
    assert flown.gnss_lost_s == pytest.approx(1.0, abs=0.4)
    assert np.abs(flown.samples.height_m[inside]).max() < 0.5  # above where it was at first
    assert [now.phase for now in flight.seen if "GNSS" in now.phase][-1] == "without GNSS"


@pytest.mark.parametrize(
    ("autopilot", "remove", "add"),
    [
        ("px4", "SIM_GPS_USED", {"SYS_FAILURE_EN": 0}),  # failure injection is left
        ("ardupilot", "SIM_GPS1_ENABLE", {"SIM_GPS_DISABLE": 0}),  # as up to 4.5
    ],
)
def test_other_ways_to_lose_gnss(
    make: Callable[..., Flight], autopilot: str, remove: str, add: dict[str, float]
) -> None:
    flight = make(autopilot, drift_m_s=20.0)
    del flight.vehicle.parameters[remove]
    flight.vehicle.parameters |= add
    before = dict(flight.vehicle.parameters)
    had: list[bool] = []
    flown = flight.fly(on_step=lambda _: had.append(flight.has_gnss()))
    assert "off, the limit is 8 m" in flown.trouble
    assert not all(had)
    assert flight.has_gnss()  # again
    assert flight.vehicle.parameters == before
    assert "GNSS is back" in flight.told
    _until(lambda: flight.vehicle.mode == "LAND")


def test_a_vehicle_whose_gnss_cannot_be_taken_is_left_on_the_ground(make: Callable[..., Flight]) -> None:
    flight = make(in_air=False)
    del flight.vehicle.parameters["SIM_GPS_USED"], flight.vehicle.parameters["SYS_FAILURE_EN"]
    with pytest.raises(GeolocError, match="no parameter SIM_GPS_USED, so that its GNSS cannot be taken away"):
        flight.fly()
    assert not flight.vehicle.armed


def test_a_vehicle_that_refuses_to_arm_is_quoted(make: Callable[..., Flight]) -> None:
    flight = make(in_air=False)
    flight.vehicle.not_arming = "Preflight Fail: ekf2 missing data"
    message = "refuses to arm for 2 s; it says: Preflight Fail: ekf2 missing data"
    with pytest.raises(GeolocError, match=message):
        flight.fly()


def test_a_vehicle_without_truth_is_left_on_the_ground(
    make: Callable[..., Flight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a real one: nobody takes its GNSS away."""
    monkeypatch.setattr(MavlinkVehicle, "_send_hil_state_quaternion", None)
    flight = make(in_air=False)
    with pytest.raises(GeolocError, match="for simulated vehicles only"):
        flight.fly()
    assert not flight.vehicle.armed


def test_without_fixes_gnss_stays(make: Callable[..., Flight]) -> None:
    flight = make()
    flight.fixes.reported = "localizer: no prior yet"
    had: list[bool] = []
    with pytest.raises(GeolocError, match="in the last 5 s, so GNSS stays on; localizer: no prior yet"):
        flight.fly(replace(PLAN, needs_fixes=True), lambda _: had.append(flight.has_gnss()))
    assert all(had)
    _until(lambda: flight.vehicle.mode == "LAND")


def test_it_hovers_until_the_first_fix(make: Callable[..., Flight]) -> None:
    flight = make()
    hovering: list[Progress] = []

    def show(now: Progress) -> None:
        if now.phase == "waiting for a fix":
            hovering.append(now)
            flight.fixes.number = int(len(hovering) >= 8)
        elif now.phase == "without GNSS":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flight.fly(replace(PLAN, needs_fixes=True), show)
    assert 8 < len(hovering) < 12  # it is counted with the next step, and so is its age
    assert all(math.isnan(now.time_s) for now in hovering)  # the pattern has not begun


def test_ctrl_c_brings_gnss_back_and_the_vehicle_down(make: Callable[..., Flight]) -> None:
    flight = make()

    def interrupt(now: Progress) -> None:
        if now.phase == "without GNSS":
            assert not flight.has_gnss()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flight.fly(on_step=interrupt)
    assert flight.has_gnss()
    assert flight.told[-3:] == ["GNSS is back", "the vehicle was asked to land", "landed"]
    assert flight.vehicle.landed


def test_it_ends_on_the_ground_after_a_failsafe_that_ends(make: Callable[..., Flight]) -> None:
    """PX4 lands blindly, and goes on with its mission when GNSS is given back."""
    flight = make(failsafe_s=0.5)
    modes: list[str] = []
    flown = flight.fly(on_step=lambda _: modes.append(flight.vehicle.mode))
    assert flown.trouble.startswith("the vehicle left its mission for LAND, as a failsafe")
    assert "Failsafe activated: blind land" in flown.trouble
    assert flight.vehicle.landed
    assert flight.has_gnss()
    assert flight.told[-3:] == ["GNSS is back", "the vehicle was asked to land", "landed"]
    assert outcome(flown).startswith("lost: the vehicle left its mission for LAND, as a failsafe")
    assert "landed, with the estimate 0." in outcome(flown)
    assert all(map(str.isprintable, flown.texts))


def test_gnss_is_given_back_before_it_descends(make: Callable[..., Flight], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mission, "LEAST_WITHOUT_S", 1.0)
    flight = make(failsafe_s=math.inf)
    landing: list[bool] = []

    def note(now: Progress) -> None:
        if flight.vehicle.mode == "LAND":
            landing.append(flight.has_gnss())

    flown = flight.fly(replace(PLAN, size_m=10.0, speed_m_s=4.0), note)
    assert flown.trouble == ""
    assert landing and all(landing)
    assert flown.gnss_back_s < flown.landed_s


def test_a_blind_landing_is_scored_as_one(make: Callable[..., Flight], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receiver does not come back."""
    monkeypatch.setattr(mission, "LEAST_WITHOUT_S", 1.0)
    monkeypatch.setattr(mission, "OFF_S", 1.0)
    flight = make(failsafe_s=math.inf)

    def break_receiver(now: Progress) -> None:
        flight.vehicle.gnss = flight.vehicle.gnss and now.phase != "without GNSS"

    flown = flight.fly(replace(PLAN, size_m=10.0, speed_m_s=4.0), break_receiver)
    assert flown.trouble == ""
    assert flight.vehicle.landed
    assert math.isnan(flown.gnss_back_s)
    assert "landed blindly, with the estimate" in outcome(flown)
    assert figures(flown)["touchdown"]["blind"] is True
    assert figures(flown)["touchdown"]["error_m"] == pytest.approx(flight.vehicle.error_m(), abs=1.0)


@pytest.mark.parametrize(
    ("act", "trouble"),
    [
        (lambda vehicle: vehicle._set_mode("RTL"), "the vehicle left its mission for"),
        (lambda vehicle: setattr(vehicle, "armed", False), "the vehicle disarmed in flight"),
        (
            lambda vehicle: setattr(vehicle, "_send_global_position_int", lambda mav: None),
            "the vehicle has no position any more",
        ),
    ],
)
def test_what_becomes_of_a_lost_vehicle_is_told(
    make: Callable[..., Flight], act: Callable[[MavlinkVehicle], None], trouble: str
) -> None:
    flight = make(failsafe_s=1e6)
    done = threading.Event()

    def spoil(now: Progress) -> None:
        if now.phase == "without GNSS" and not done.is_set():
            done.set()
            act(flight.vehicle)

    flown = flight.fly(on_step=spoil)
    assert trouble in flown.trouble
    assert outcome(flown).startswith(f"lost: {trouble}")
    assert flight.has_gnss()


def test_a_silent_vehicle_ends_the_mission(make: Callable[..., Flight], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_station, "SILENT_S", 0.8)
    flight = make()

    def fall_silent(now: Progress) -> None:
        flight.vehicle.silent = now.phase == "without GNSS"

    flown = flight.fly(on_step=fall_silent)
    assert flown.trouble in ("the vehicle is silent", "the simulator no longer says where the vehicle is")
    assert "GNSS could not be put back: restart the simulator" in flight.told


def test_its_words_are_kept(make: Callable[..., Flight]) -> None:
    """Once each; those that are too long for one message come in pieces."""
    flight = make()
    flight.station.connect(3.0)
    sender = mavlink.MAVLink(flight.vehicle._peers[0], srcSystem=1, srcComponent=1)
    long = "Arming denied: Resolve system health failures first"
    for text, number, piece in (
        ("PreArm: GPS 2: Bad fix", 0, 0),
        ("PreArm: GPS 2: Bad fix", 0, 0),
        (long[:50], 7, 0),
        (long[50:] + "\t\x1b", 7, 1),
    ):
        sender.statustext_send(mavlink.MAV_SEVERITY_CRITICAL, text.encode(), number, piece)
    words = f"; it says: PreArm: GPS 2: Bad fix | {long}"
    assert flight.station.wait_for(lambda: flight.station.last_texts() == words, 3.0)


def test_report(tmp_path: Path) -> None:
    """Figures against numbers that follow from how the samples are made."""
    time_s = np.arange(-5.0, 40.0, 0.1)
    truth = np.stack([8.0 * np.clip(time_s, 0, None), np.zeros_like(time_s)], axis=1)
    error_m = np.where(time_s < 10.0, 0.5, 2.0)
    samples = Samples(time_s, truth + np.stack([0 * error_m, error_m], axis=1), truth, np.full_like(time_s, 20.0))
    fix_times_s = np.arange(0.0, 30.0, 0.25)
    flown = Flown(
        PLAN, "PX4, system 1", "", 10.0, 30.0, 31.0, 39.0, samples, fix_times_s, ("a", "a", "b"), "bridge: late"
    )
    found = figures(flown)
    assert found["ok"]
    assert found["error_m"]["with_gnss"] == {"median": 0.5, "p95": 0.5, "max": 0.5}
    assert found["error_m"]["without_gnss"]["max"] == found["error_m"]["landing"]["max"] == 2.0
    assert found["fixes_hz"] == {"with_gnss": 4.0, "without_gnss": 4.0, "landing": 0.0}
    assert found["texts"] == ["a", "b"]
    assert found["outcome"] == (
        "flown to the end with 20 s without GNSS; estimate 2.0 m off, 2.0 m at most "
        "(with GNSS 0.5 m off, 0.5 m at most), 4.0 fixes/s; landed, with the estimate 2.0 m off at touchdown"
    )
    assert found["touchdown"] == {"blind": False, "error_m": 2.0}
    lost = outcome(replace(flown, trouble="it fell", plan=replace(PLAN, needs_fixes=True)))
    assert lost.startswith("lost: it fell, after 20 s without GNSS") and lost.endswith("at touchdown; bridge: late")
    write_mission(tmp_path, flown)
    written = json.loads((tmp_path / "mission.json").read_text(encoding="utf-8"))
    assert len(written["samples"]) == len(time_s)
    row = dict(zip(written["columns"], written["samples"][-1], strict=True))
    assert row["error_m"] == 2.0 and row["true_east_m"] == pytest.approx(8.0 * time_s[-1], abs=1e-3)
    assert cv2.imread(str(tmp_path / "mission.png")) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mission.json", "mission.png"]

    with_gnss = replace(flown, gnss_lost_s=math.nan, plan=replace(PLAN, gnss_loss_s=math.inf))
    assert outcome(with_gnss) == (
        "with GNSS throughout: 2.0 m off, 2.0 m at most; landed, with the estimate 2.0 m off at touchdown"
    )
    aloft = replace(flown, trouble="it does not land", landed_s=math.nan)
    assert outcome(aloft).endswith("; still in the air")
    assert figures(aloft)["touchdown"] is None
    write_mission(tmp_path, with_gnss)
    written = json.loads((tmp_path / "mission.json").read_text(encoding="utf-8"))
    assert written["gnss_lost_s"] is None and written["plan"]["gnss_loss_s"] is None

    nothing = Samples(np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    write_mission(tmp_path, replace(flown, trouble="the vehicle is silent", samples=nothing))
    written = json.loads((tmp_path / "mission.json").read_text(encoding="utf-8"))
    assert written["error_m"] == {"with_gnss": None, "without_gnss": None, "landing": None}
    assert "estimate unknown" in written["outcome"]


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
