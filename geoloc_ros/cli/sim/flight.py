# SPDX-License-Identifier: Apache-2.0
"""Generate a flight folder by flying over a GeoTIFF.

Fly a camera over a raster; write a flight folder: images, exact poses, camera, map. For an independent test give with
--map a raster of the same ground from another date or source.
"""

import argparse
import math
from pathlib import Path

from rich.progress import track

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import seed
from geoloc_ros.cli.shared.output import make_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from geoloc_ros.core.simulation.simulator import TYPICAL
    from geoloc_ros.core.simulation.trajectory import PATTERNS

    add = parser.add_argument
    add("raster", metavar="MAP", type=Path, help="raster that the camera sees, with a CRS")
    add("--out", metavar="FLIGHT", type=Path, required=True, help="flight folder to write")
    add("--map", metavar="SERVED_MAP", type=Path, help="map that the flight carries; MAP if not given")
    add("--camera", metavar="YAML", type=Path, help="camera.yaml; a 640x480, 66 degree camera if not given")
    add("--height-m", type=float, default=120.0, help="height above ground")
    add("--speed-m-s", type=float, default=12.0, help="ground speed between the turns")
    add("--pattern", choices=PATTERNS, default="lawnmower", help="path over the ground")
    add("--rate-hz", type=float, default=2.0, help="images a second")
    add("--start-s", type=float, default=0.0, help="time along the path at which the flight starts")
    add("--duration-s", type=float, help="length of the flight; the whole path if not given")
    add("--seed", type=seed, default=0, help="of path, gusts and noise")
    add("--attitude-noise-deg", type=float, default=0.0, help="error of recorded roll and pitch, 1 sigma")
    add("--heading-noise-deg", type=float, default=0.0, help="error of recorded heading, 1 sigma")
    add("--height-noise", type=float, default=0.0, help="error of recorded height, share of it, 1 sigma")
    add("--exposure", type=float, default=TYPICAL.exposure, help="gain of the image")
    add("--noise", type=float, default=TYPICAL.noise, help="sensor noise, 8-bit levels, 1 sigma")
    add("--shutter-s", type=float, default=TYPICAL.shutter_s, help="open time, for motion blur")


def run(args: argparse.Namespace) -> int:
    """Write the flight folder."""
    from geoloc_ros.core.geometry.camera import CameraModel
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.flight_folder import write_flight
    from geoloc_ros.core.simulation.generated_flight import recorded_frames
    from geoloc_ros.core.simulation.simulator import DEFAULT_CAMERA, TYPICAL, CameraSimulator, Degradation
    from geoloc_ros.core.simulation.trajectory import SensorNoise, Trajectory

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
    frames = track(recorded_frames(simulator, poses, noise), "images", total=len(poses), transient=True)
    count = write_flight(args.out, camera, frames, served)
    simulator.close()
    length_m = sum(math.hypot(*pose.velocity_enu_m_s[:2]) for pose in poses) / args.rate_hz
    duration_s = poses[-1].stamp_s - poses[0].stamp_s
    print(f"{args.out}: {count} frames, {duration_s:.0f} s, {length_m:.0f} m flown, map {served}")
    return 0
