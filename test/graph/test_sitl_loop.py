# SPDX-License-Identifier: Apache-2.0
"""The whole loop on loopback: vehicle, bridge, simulated camera, localizer, bridge, vehicle; GNSS goes, it flies on."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from harness import Spinner, parameters, until
from mavlink_vehicle import MavlinkVehicle
from rclpy.lifecycle import TransitionCallbackReturn

from geoloc_models.data.world import generate_world
from geoloc_ros.cli.fix_listener import FixListener
from geoloc_ros.core.ground_station import GroundStation
from geoloc_ros.core.mission import Fixes, Flown, Mission, MissionPlan, Recorder
from geoloc_ros.core.mission_report import figures, write_mission
from geoloc_ros.nodes.camera_sim import CameraSimNode
from geoloc_ros.nodes.localizer import LocalizerNode
from geoloc_ros.nodes.map_server import MapServerNode
from geoloc_ros.nodes.mavlink_bridge import MavlinkBridgeNode

NAMESPACE = "/loop"
GROUND_M = 58.0
PLAN = {
    "pattern": "line",
    "size_m": 100.0,
    "height_m": 60.0,
    "speed_m_s": 12.0,
    "gnss_loss_s": 3.0,
    "max_error_m": 10.0,
}


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Alone:
    """Nobody's fixes."""

    def count(self) -> int:
        return 0

    def words(self) -> str:
        return ""


def fly(port: int, fixes: Fixes, needs_fixes: bool) -> Flown:
    recorder = Recorder()
    station = GroundStation(f"udpin:127.0.0.1:{port}", recorder.take)
    try:
        plan = MissionPlan(**PLAN, needs_fixes=needs_fixes)
        return Mission(station, recorder, plan, fixes, print, lambda _: None).fly()
    finally:
        station.close()


@pytest.fixture
def home(spinner: Spinner, tmp_path: Path) -> tuple[tuple[float, float, float], int]:
    """All nodes over a world whose served map is of another date than what the camera sees; (home, bridge's port)."""
    world = generate_world(400.0, 0.4, 11)
    for date in (1, 2):
        world.write_geotiff(tmp_path / f"map_date{date}.tif", date)
    port = free_port()
    values = {
        MapServerNode: {"map": str(tmp_path / "map_date2.tif")},
        CameraSimNode: {"map": str(tmp_path / "map_date1.tif"), "source": "vehicle", "rate_hz": 4.0},
        MavlinkBridgeNode: {"connection": f"udpin:127.0.0.1:{port}", "truth": True, "max_age_s": 1.0},
    }
    for node, overrides in values.items():
        spinner.add(node(namespace=NAMESPACE, parameter_overrides=parameters(**overrides)))
    overrides = parameters(weights="mix_compact", threads=1)
    localizer = LocalizerNode(namespace=NAMESPACE, parameter_overrides=overrides)
    assert localizer.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert localizer.trigger_activate() == TransitionCallbackReturn.SUCCESS
    spinner.add(localizer)
    return (world.lat_deg, world.lon_deg, GROUND_M), port


def test_the_fixes_keep_a_vehicle_on_its_way(
    home: tuple[tuple[float, float, float], int], tmp_path: Path
) -> None:
    """The same flight twice: with the fixes it ends where it should, alone its estimate goes astray."""
    place, bridge_port = home
    port, other_port = free_port(), free_port()
    flown: list[Flown] = []
    vehicle = MavlinkVehicle(
        "px4", place, [("127.0.0.1", bridge_port), ("127.0.0.1", port)], drift_m_s=2.0, agility=10.0
    )
    alone = MavlinkVehicle("ardupilot", place, [("127.0.0.1", other_port)], drift_m_s=2.0, agility=10.0)
    with vehicle, alone, FixListener(NAMESPACE) as fixes:
        other = threading.Thread(target=lambda: flown.append(fly(other_port, Alone(), False)))
        other.start()
        helped = fly(port, fixes, True)
        other.join()
        lost = flown[0]
        write_mission(tmp_path, helped)
        print(json.dumps(figures(helped)), figures(lost), vehicle.used, vehicle.error_m())
        assert helped.trouble == ""
        assert vehicle.landed
        assert vehicle.parameters["SIM_GPS_USED"] == 10  # GNSS is back
        assert vehicle.used > 20
    without_s = helped.pattern_end_s - helped.gnss_lost_s
    assert without_s > 8.0
    errors_m = helped.samples.between(helped.gnss_lost_s, helped.pattern_end_s)
    assert np.median(errors_m) < 3.0
    assert errors_m.max() < 6.0
    assert "off, the limit is 10 m" in lost.trouble
    until(lambda: alone.mode == "LAND" or alone.landed, what="its landing")
    assert alone.parameters["SIM_GPS1_ENABLE"] == 1
