# SPDX-License-Identifier: Apache-2.0
"""Write a bag as a flight folder.

Write the images of a bag that have an attitude, a height and a true position as a flight folder. Topics are found by
message type and name; each image gets the values of its own moment. JPEG and PNG images stay as they are.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.bag.check import add_bag
from geoloc_ros.cli.shared.arguments import add_camera_mount
from geoloc_ros.cli.shared.output import make_writable, rated_progress

if TYPE_CHECKING:
    from geoloc_ros.core.recording.frame import Frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_bag(parser)
    add("--out", type=Path, required=True, metavar="FOLDER", help="flight folder to write")
    add("--map", type=Path, metavar="M", help="raster that becomes the folder's map.tif")
    add_camera_mount(parser)


def _is_posed(frame: Frame) -> bool:
    rotation = frame.rotation_enu_from_optical
    return rotation is not None and math.isfinite(rotation.sum() + frame.height_m)


def run(args: argparse.Namespace) -> int:
    from geoloc_ros.cli.shared.recordings import open_reported, require_truth
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.recording.flight_folder import write_flight

    bag = open_reported(args.bag, args.topic, args.camera_mount)
    if not isinstance(bag, Bag):
        raise GeolocError(f"{args.bag} is a flight folder already")
    require_truth(bag)
    if (args.out / "flight.csv").exists():
        raise GeolocError(f"{args.out} holds a flight already; remove it or choose another folder")
    make_writable(args.out)
    with rated_progress() as progress:
        read = progress.track(bag, total=len(bag), description=f"writing {args.out.name}")
        complete = (frame for frame in read if frame.image is not None and frame.truth is not None and _is_posed(frame))
        count = write_flight(args.out, bag.camera, complete, args.map)
    left_out = len(bag) - count
    if not count:
        raise GeolocError(
            f"no image of {args.bag} has an attitude, a height and a true position; "
            "`geoloc bag check` says what is missing"
        )
    lacking = f", {left_out} left out for want of an image, attitude, height or truth" if left_out else ""
    print(f"{args.out}: {count} frames{lacking}")
    return 0
