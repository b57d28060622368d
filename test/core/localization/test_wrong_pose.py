# SPDX-License-Identifier: Apache-2.0
"""Tracks with the default network whose vehicle reports a wrong heading and height."""

import math

import pytest

from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.metrics import haversine_m
from geoloc_models.world.generate import generate_world
from geoloc_ros.core.evaluation.misreported import Misreported
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.simulation.generated_flight import recorded_frames
from geoloc_ros.core.simulation.simulator import DEFAULT_CAMERA, TYPICAL, CameraSimulator
from geoloc_ros.core.simulation.trajectory import Trajectory


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("default", device="cpu")


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    """12 frames at 100 m over one date of a generated world, with the map of the other."""
    folder = tmp_path_factory.mktemp("world")
    world = generate_world(700.0, 0.5, 3)
    for date in (1, 2):
        world.write_geotiff(folder / f"map_date{date}.tif", date)
    simulator = CameraSimulator(folder / "map_date1.tif", DEFAULT_CAMERA, TYPICAL, 3)
    poses = Trajectory.over(simulator, "loop", 100.0, 10.0, 3).sample(1.0, duration_s=11.5)
    write_flight(folder / "flight", DEFAULT_CAMERA, recorded_frames(simulator, poses), folder / "map_date2.tif")
    simulator.close()
    return Flight.open(folder / "flight")


@pytest.mark.parametrize(("heading_deg", "height_percent"), [(10.0, 0.0), (-20.0, 0.0), (10.0, -20.0), (0.0, 30.0)])
def test_a_track_finds_heading_and_height_and_gives_no_wrong_fix(
    engine: TorchEngine, flight: Flight, heading_deg: float, height_percent: float
) -> None:
    with RasterMap(flight.map_path) as source:
        localizer = Localizer(engine, source)
        start = flight.truth(0)
        localizer.set_prior(start.lat_deg, start.lon_deg, 40.0)
        fixes = 0
        for frame in Misreported(flight, heading_deg, height_percent):
            estimate = localizer.process(frame)
            assert frame.truth is not None
            if estimate.valid:
                fixes += 1
                error_m = haversine_m(estimate.lat_deg, estimate.lon_deg, frame.truth.lat_deg, frame.truth.lon_deg)
                assert error_m < 6.0, estimate
        assert localizer.state == State.TRACKING
        assert fixes >= 8
        assert estimate.bias is not None
        assert math.degrees(estimate.bias.heading_rad) == pytest.approx(-heading_deg, abs=1.5)
        assert math.exp(estimate.bias.log_height_scale) == pytest.approx(1 / (1 + height_percent / 100), rel=0.03)
        # A new prior forgets what was learned.
        localizer.set_prior(start.lat_deg, start.lon_deg, 40.0)
        assert localizer._state.bias.bias.heading_rad == 0.0  # type: ignore[attr-defined]
