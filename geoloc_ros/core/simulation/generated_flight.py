# SPDX-License-Identifier: Apache-2.0
"""Flight folders from a simulated camera, and a flight over a generated world of two dates."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from geoloc_models.world.generate import generate_world
from geoloc_ros.core.recording.flight_folder import write_flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import DEFAULT_CAMERA, TYPICAL, CameraSimulator, Pose
from geoloc_ros.core.simulation.trajectory import SensorNoise, Trajectory

WORLD_M, WORLD_GSD_M = 1100.0, 0.3
HEIGHT_M, SPEED_M_S, RATE_HZ, DURATION_S = 120.0, 20.0, 2.0, 90.0


def recorded_frames(
    simulator: CameraSimulator, poses: Iterable[Pose], noise: SensorNoise | None = None
) -> Iterator[Frame]:
    """Images rendered at the poses, with attitude and height as sensors of that noise record them; None: exact."""
    for pose in poses:
        rotation, height_m = (pose.rotation_enu_from_optical, pose.height_m) if noise is None else noise.record(pose)
        yield Frame(
            image=simulator.render_pose(pose),
            stamp_s=pose.stamp_s,
            rotation_enu_from_optical=rotation,
            height_m=height_m,
            camera=simulator.camera,
            truth=Truth(pose.lat_deg, pose.lon_deg, pose.height_m),
        )


def generate_flight(folder: Path, seed: int) -> Path:
    """Images of one date over the map of the other, generated anew each time; returns the flight folder."""
    world = generate_world(WORLD_M, WORLD_GSD_M, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for date in (1, 2):
        world.write_geotiff(folder / f"map_date{date}.tif", date)
    simulator = CameraSimulator(folder / "map_date1.tif", DEFAULT_CAMERA, TYPICAL, seed)
    path = Trajectory.over(simulator, "loop", HEIGHT_M, SPEED_M_S, seed)
    frames = recorded_frames(simulator, path.sample(RATE_HZ, duration_s=DURATION_S))
    write_flight(folder / "flight", DEFAULT_CAMERA, frames, folder / "map_date2.tif")
    simulator.close()
    return folder / "flight"
