# SPDX-License-Identifier: Apache-2.0
"""Find the error of a camera's mount.

Estimate roll, pitch and yaw of the camera's mount from a recording over a map, and print the parameter to set. Best is
a flight of some minutes with turns and with good GNSS recorded as true positions: the places where the map shows the
images' centres then give roll and pitch, the images' headings yaw. Without true positions only perspective shows roll
and pitch, which takes many frames. A constant error of the compass looks like yaw of the mount. Nothing is printed if
the recording leaves an angle open.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_camera_mount, add_json, add_network, add_topic
from geoloc_ros.cli.shared.output import make_writable, rated_progress, write_json

if TYPE_CHECKING:
    from geoloc_ros.core.evaluation.mount_calibration import MountCalibration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("flight", type=Path, metavar="FLIGHT_OR_BAG", help="flight folder, or rosbag2 (sqlite3 or MCAP)")
    add("--map", type=Path, metavar="M", help="raster to search (default: the flight folder's map.tif)")
    add("--frames", type=int, metavar="N", help="use the first N frames only")
    add("--prior", type=float, nargs=2, metavar=("LAT", "LON"), help="start, to 30 m, of a bag without true positions")
    add_topic(parser)
    add_camera_mount(parser)
    add_network(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Track the recording, fit, print."""
    from geoloc_models.devices import fix_threads
    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_ros.cli.shared.recordings import open_reported, require_on_map
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.evaluation.mount_calibration import calibrate_mount, measure_mount
    from geoloc_ros.core.geometry.rotations import DOWN_XYZW
    from geoloc_ros.core.localization.localizer import Localizer
    from geoloc_ros.core.maps.raster import RasterMap

    if args.frames is not None and args.frames < 1:
        raise GeolocError(f"--frames {args.frames} leaves nothing to calibrate with; give at least 1")
    fix_threads(args.threads)
    recording = open_reported(args.flight, args.topic, args.camera_mount)
    has_truth = any(recording.truth(index) is not None for index in range(len(recording)))
    if not has_truth and args.prior is None:
        raise GeolocError("the recording has no true positions to start from; give --prior LAT LON")
    make_writable(None, args.json)
    map_path = recording.map_path if args.map is None else args.map
    engine = TorchEngine(args.weights, device=args.device)
    with RasterMap(map_path) as raster, rated_progress() as progress:
        if has_truth:
            require_on_map(recording, raster, map_path)
        task = progress.add_task("frames", total=min(len(recording), args.frames or len(recording)))
        measured = measure_mount(
            itertools.islice(recording, args.frames),
            Localizer(engine, raster),
            args.prior,
            functools.partial(progress.advance, task),
        )
    if not has_truth:
        print("geoloc: no true positions: roll and pitch come from perspective alone, which is weak", file=sys.stderr)
    mount = DOWN_XYZW if args.camera_mount is None else args.camera_mount
    found = calibrate_mount(measured, mount_xyzw=mount)
    _print(found, isinstance(recording, Bag))
    write_json(args.json, _figures(found))
    return 0


def _print(found: MountCalibration, is_bag: bool) -> None:
    """The parameter, and how far it can be relied on."""
    for name, angle_deg, sigma_deg in zip(("roll", "pitch", "yaw"), found.angles_deg, found.sigma_deg, strict=True):
        print(f"{name:6s}{angle_deg:+7.2f}° ± {sigma_deg:.2f}°")
    print(f"from {found.frames} aligned frames, {found.outliers} of which contradict this")
    scale = found.height_scale
    if abs(scale - 1) > max(0.02, 2 * found.height_sigma):
        print(f"the height above ground is {scale:.3f} ± {found.height_sigma:.3f} times the recorded one")
    if found.map_shift_m is not None:
        east_m, north_m = found.map_shift_m
        print(f"the map lies {east_m:+.2f} m east and {north_m:+.2f} m north of the true positions")
    if not is_bag:
        print(
            "a flight folder holds the camera's own attitude: turn it by these angles about the body's axes (x forward,"
        )
        print("y left, z up). On a vehicle whose camera_mount_xyzw was the default, set:")
    print(f"camera_mount_xyzw: [{', '.join(f'{value:.6f}' for value in found.xyzw)}]")


def _figures(found: MountCalibration) -> dict[str, object]:
    """For JSON."""
    from geoloc_ros.core.evaluation.scores import rounded

    return {
        "angles_deg": [rounded(one, 4) for one in found.angles_deg],
        "sigma_deg": [rounded(one, 4) for one in found.sigma_deg],
        "camera_mount_xyzw": [rounded(one, 6) for one in found.xyzw],
        "height_scale": rounded(found.height_scale, 4),
        "height_sigma": rounded(found.height_sigma, 4),
        "map_shift_m": None if found.map_shift_m is None else [rounded(one, 3) for one in found.map_shift_m],
        "frames": found.frames,
        "outliers": found.outliers,
    }
