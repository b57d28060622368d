# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of fixes in an autopilot's parameters, and what does not."""

import socket
import sys
from pathlib import Path

import pytest

from geoloc_ros.cli.main import main
from geoloc_ros.core.autopilot.parameter_check import findings
from geoloc_ros.core.autopilot.vehicle import Autopilot

sys.path.insert(0, str(Path(__file__).parents[2] / "nodes"))

from mavlink_vehicle import MavlinkVehicle

PX4 = {
    "EKF2_AGP0_CTRL": 1.0, "EKF2_AGP0_DELAY": 155.0, "EKF2_EV_CTRL": 1.0, "EKF2_EV_DELAY": 0.0,
    "EKF2_NOAID_TOUT": 1e7, "EKF2_DELAY_MAX": 200.0, "SIH_KDV": 0.2,
}  # fmt: skip
ARDUPILOT = {
    "GPS1_TYPE": 1.0, "GPS2_TYPE": 14.0, "GPS_PRIMARY": 0.0, "GPS_AUTO_SWITCH": 4.0, "EK3_SRC1_POSXY": 3.0,
    "EK3_SRC1_VELZ": 0.0, "GPS2_DELAY_MS": 155.0,
}  # fmt: skip


def found(autopilot: Autopilot, version: tuple[int, int, int], **changes: float) -> dict[str, str]:
    """Name and value to set of what is found; changes to a vehicle on which all is well."""
    parameters = {**(PX4 if autopilot is Autopilot.PX4 else ARDUPILOT), **changes}
    return {f.name: f.wanted for f in findings(autopilot, version, parameters.get, 155.0)}


@pytest.mark.parametrize(
    ("version", "changes", "expected"),
    [
        ((1, 18, 0), {}, {}),
        ((1, 17, 0), {}, {}),
        ((1, 18, 0), {"EKF2_AGP0_CTRL": 0.0, "EKF2_EV_CTRL": 15.0}, {"EKF2_AGP0_CTRL": "1"}),
        ((1, 18, 0), {"EKF2_AGP0_DELAY": 0.0}, {"EKF2_AGP0_DELAY": "155"}),
        ((1, 17, 0), {"EKF2_EV_CTRL": 15.0, "EKF2_AGP0_CTRL": 0.0}, {"EKF2_EV_CTRL": "1"}),
        ((1, 17, 0), {"EKF2_EV_CTRL": 9.0}, {}),  # with a heading
        ((1, 17, 0), {"EKF2_EV_DELAY": 50.0}, {"EKF2_EV_DELAY": "0"}),
        ((1, 18, 0), {"EKF2_NOAID_TOUT": 5e6, "SIH_KDV": 1.0}, {"EKF2_NOAID_TOUT": "10000000", "SIH_KDV": "0.2"}),
        ((1, 18, 0), {"EKF2_DELAY_MAX": 100.0}, {"EKF2_DELAY_MAX": "200"}),
    ],
)
def test_px4(version: tuple[int, int, int], changes: dict[str, float], expected: dict[str, str]) -> None:
    assert found(Autopilot.PX4, version, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"GPS2_TYPE": 0.0}, {"GPS2_TYPE": "14"}),
        ({"GPS1_TYPE": 14.0, "GPS2_TYPE": 0.0, "GPS_AUTO_SWITCH": 1.0, "GPS1_DELAY_MS": 155.0}, {}),
        ({"GPS_AUTO_SWITCH": 1.0, "EK3_SRC1_VELZ": 3.0}, {"GPS_AUTO_SWITCH": "4", "EK3_SRC1_VELZ": "0"}),
        ({"GPS2_DELAY_MS": 0.0}, {"GPS2_DELAY_MS": "155"}),
    ],
)
def test_ardupilot(changes: dict[str, float], expected: dict[str, str]) -> None:
    assert found(Autopilot.ARDUPILOT, (4, 7, 0), **changes) == expected


def test_ardupilot_before_4_6_has_other_names() -> None:
    old = {"GPS_TYPE": 1.0, "GPS_TYPE2": 14.0, "GPS_DELAY_MS2": 0.0, "GPS_AUTO_SWITCH": 4.0, "GPS_PRIMARY": 0.0}
    assert [f.name for f in findings(Autopilot.ARDUPILOT, (4, 5, 0), old.get, 155.0)] == ["GPS_DELAY_MS2"]


def test_the_command_reads_them_from_the_vehicle(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with MavlinkVehicle("px4", (58.37, 26.73, 60.0), [("127.0.0.1", port)]) as vehicle:
        before = dict(vehicle.parameters)
        command = ["sim", "check", "--connect", f"udpin:127.0.0.1:{port}", "--latency-ms", "160"]
        assert main(command) == 1
        assert vehicle.parameters == before
    printed = capsys.readouterr().out
    assert "EKF2_NOAID_TOUT is 5e+06, set 10000000: after 5 s without a position it lands blindly" in printed
    assert "EKF2_AGP0_DELAY is 0, set 160" in printed
    assert printed.splitlines()[-1] == "PX4 1.18.0, system 1: 3 parameters in the way"
