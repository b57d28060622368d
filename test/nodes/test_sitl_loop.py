# SPDX-License-Identifier: Apache-2.0
"""The whole loop on loopback: vehicle, bridge, simulated camera, localizer, bridge, vehicle; GNSS goes, it flies on."""

import json
import socket
from pathlib import Path

import cv2
import pytest
from harness import Spinner, parameters, until
from mavlink_vehicle import MavlinkVehicle
from rclpy.lifecycle import TransitionCallbackReturn

from geoloc_models.world.generate import generate_world
from geoloc_ros.cli.main import main
from geoloc_ros.core.simulation import mission
from geoloc_ros.nodes.camera_sim_node import CameraSimNode
from geoloc_ros.nodes.localizer_node import LocalizerNode
from geoloc_ros.nodes.map_server_node import MapServerNode
from geoloc_ros.nodes.mavlink_bridge_node import MavlinkBridgeNode

Place = tuple[float, float, float]

GROUND_M = 58.0
DRIFT_M_S = 1.0
MAX_AGE_S = 4.0
"""The machine may be busy; the vehicle compares a fix with what it believed at the image's moment."""
PLAN = {"pattern": "line", "size-m": 60, "height-m": 60, "speed-m-s": 8, "gnss-loss-s": 1, "max-error-m": 10}


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fly(port: int, out: Path, *arguments: str) -> list[str]:
    """The command line of a mission."""
    plan = [text for name, value in PLAN.items() for text in (f"--{name}", str(value))]
    return ["sim", "mission", "--connect", f"udpin:127.0.0.1:{port}", "--out", str(out), *plan, *arguments]


@pytest.fixture
def home(spinner: Spinner, tmp_path: Path) -> tuple[Place, int]:
    """All nodes over a world whose served map is of another date than what the camera sees; (home, bridge's port)."""
    world = generate_world(400.0, 0.4, 11)
    for date in (1, 2):
        world.write_geotiff(tmp_path / f"map_date{date}.tif", date)
    port = free_port()
    values = {
        MapServerNode: {"map": str(tmp_path / "map_date2.tif")},
        CameraSimNode: {"map": str(tmp_path / "map_date1.tif"), "source": "vehicle", "rate_hz": 4.0},
        MavlinkBridgeNode: {"connection": f"udpin:127.0.0.1:{port}", "truth": True, "max_age_s": MAX_AGE_S},
    }
    for node, overrides in values.items():
        spinner.add(node(namespace="/loop", parameter_overrides=parameters(**overrides)))
    overrides = parameters(weights="mix_compact", threads=1)
    localizer = LocalizerNode(namespace="/loop", parameter_overrides=overrides)
    assert localizer.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert localizer.trigger_activate() == TransitionCallbackReturn.SUCCESS
    spinner.add(localizer)
    return (world.lat_deg, world.lon_deg, GROUND_M), port


def test_the_fixes_keep_a_vehicle_on_its_way(
    home: tuple[Place, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same flight twice: with the fixes it ends where it should, alone its estimate goes astray."""
    place, bridge_port = home
    port, other_port = free_port(), free_port()
    peers = [("127.0.0.1", bridge_port), ("127.0.0.1", port)]
    helped = MavlinkVehicle("px4", place, peers, drift_m_s=DRIFT_M_S, agility=15.0, max_age_s=MAX_AGE_S)
    alone = MavlinkVehicle("ardupilot", place, [("127.0.0.1", other_port)], drift_m_s=DRIFT_M_S, agility=15.0)
    with helped:
        status = main(fly(port, tmp_path / "helped", "--namespace", "/loop"))
    output = capsys.readouterr().out
    assert status == 0, output
    assert helped.landed
    assert helped.used > 5
    assert helped.parameters["SIM_GPS_USED"] == 10  # as it was
    report = json.loads((tmp_path / "helped" / "mission.json").read_text(encoding="utf-8"))
    without_s = report["pattern_end_s"] - report["gnss_lost_s"]
    assert report["ok"]
    assert report["error_m"]["with_gnss"]["max"] < 1.0
    assert report["error_m"]["without_gnss"]["median"] < 3.0
    assert DRIFT_M_S * without_s > 12.0  # so far it would have drifted
    assert report["fixes_hz"]["without_gnss"] > 0.3  # on a busy machine
    assert f"flown to the end with {without_s:.0f} s without GNSS" in output.splitlines()[-1]
    assert cv2.imread(str(tmp_path / "helped" / "mission.png")).shape[1] > 600

    with alone:
        assert main(fly(other_port, tmp_path / "alone", "--without-fixes")) == 1
        until(lambda: alone.landed, what="the landing of the vehicle alone")
    report = json.loads((tmp_path / "alone" / "mission.json").read_text(encoding="utf-8"))
    assert "off, the limit is 10 m" in report["trouble"]
    assert report["fixes_hz"]["without_gnss"] == 0.0
    assert report["error_m"]["without_gnss"]["max"] > 10.0
    assert alone.parameters["SIM_GPS1_ENABLE"] == 1


def test_without_a_vehicle_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mission, "CONNECT_S", 0.3)
    port = free_port()
    assert main(fly(port, tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"no heartbeat of an autopilot on udpin:127.0.0.1:{port} yet" in error
    assert "start PX4's or ArduPilot's simulator" in error
    assert len(error.splitlines()) == 1
