# SPDX-License-Identifier: Apache-2.0
"""`geoloc simulate`: a flight folder from a camera flown over a georeferenced raster."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import make_writable, seed
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import write_flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator, Degradation, Pose
from geoloc_ros.core.simulation.trajectory import PATTERNS, SensorNoise, Trajectory

DEFAULT_CAMERA = CameraModel(640, 480, np.array([[490.0, 0.0, 319.5], [0.0, 490.0, 239.5], [0.0, 0.0, 1.0]]))
"""VGA with a field of view of 66 by 52 degrees."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "simulate",
        help="make a flight folder by flying a camera over a GeoTIFF",
        description="Fly a camera over a raster; write a flight folder: pictures, exact poses, camera, map."
        " For an honest test give with --map a raster of the same ground from another date or source.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("raster", metavar="MAP", type=Path, help="raster that the camera sees, with a CRS")
    add("--out", metavar="FLIGHT", type=Path, required=True, help="flight folder to write")
    add("--map", metavar="SERVED_MAP", type=Path, help="map that the flight carries; MAP if not given")
    add("--camera", metavar="YAML", type=Path, help="camera.yaml; a 640x480, 66 degree camera if not given")
    add("--height-m", type=float, default=120.0, help="height above ground")
    add("--speed-m-s", type=float, default=12.0, help="ground speed between the turns")
    add("--pattern", choices=PATTERNS, default="lawnmower", help="path over the ground")
    add("--rate-hz", type=float, default=2.0, help="pictures a second")
    add("--start-s", type=float, default=0.0, help="time along the path at which the flight starts")
    add("--duration-s", type=float, help="length of the flight; the whole path if not given")
    add("--seed", type=seed, default=0, help="of path, gusts and noise")
    add("--attitude-noise-deg", type=float, default=0.0, help="error of recorded roll and pitch, 1 sigma")
    add("--heading-noise-deg", type=float, default=0.0, help="error of recorded heading, 1 sigma")
    add("--height-noise", type=float, default=0.0, help="error of recorded height, share of it, 1 sigma")
    add("--exposure", type=float, default=TYPICAL.exposure, help="gain of the picture")
    add("--noise", type=float, default=TYPICAL.noise, help="sensor noise, 8-bit levels, 1 sigma")
    add("--shutter-s", type=float, default=TYPICAL.shutter_s, help="open time, for motion blur")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the flight folder."""
    served = args.map or args.raster
    if not served.is_file():
        raise GeolocError(f"served map {served} is no file; give a raster file with --map")
    RasterMap(served).close()  # a flight with a map that does not open would be of no use
    camera = CameraModel.from_yaml(args.camera) if args.camera else DEFAULT_CAMERA
    degradation = Degradation(
        exposure=args.exposure,
        vignetting=TYPICAL.vignetting,
        blur_px=TYPICAL.blur_px,
        noise=args.noise,
        shutter_s=args.shutter_s,
    )
    simulator = CameraSimulator(args.raster, camera, degradation, args.seed)
    trajectory = Trajectory.over(simulator, args.pattern, args.height_m, args.speed_m_s, args.seed)
    poses = list(trajectory.sample(args.rate_hz, args.start_s, args.duration_s))
    noise = SensorNoise(args.attitude_noise_deg, args.heading_noise_deg, args.height_noise, args.seed)
    make_writable(args.out)
    frames = track(_frames(simulator, poses, noise), "pictures", total=len(poses), transient=True)
    count = write_flight(args.out, camera, frames, served)
    simulator.close()
    length_m = sum(math.hypot(*pose.velocity_enu_m_s[:2]) for pose in poses) / args.rate_hz
    duration_s = poses[-1].stamp_s - poses[0].stamp_s
    print(f"{args.out}: {count} frames, {duration_s:.0f} s, {length_m:.0f} m flown, map {served}")
    return 0


def _frames(simulator: CameraSimulator, poses: list[Pose], noise: SensorNoise) -> Iterator[Frame]:
    for pose in poses:
        recorded_rotation, recorded_height_m = noise.record(pose)
        yield Frame(
            image=simulator.render_pose(pose),
            stamp_s=pose.stamp_s,
            rotation_enu_from_optical=recorded_rotation,
            height_m=recorded_height_m,
            camera=simulator.camera,
            truth=Truth(pose.lat_deg, pose.lon_deg, pose.height_m),
        )
