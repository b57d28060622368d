# SPDX-License-Identifier: Apache-2.0
"""Write a flight folder as a bag.

Write a flight folder as a rosbag2 with the topics of a camera drone: /camera/image/compressed (with --raw
/camera/image), /camera/camera_info, /imu, /altitude (height above ground) and /truth. Compressed images are the
folder's own files, so that `geoloc evaluate` gives the same figures on both.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.output import rated_progress

if TYPE_CHECKING:
    from geoloc_ros.core.recording.flight_folder import Flight
    from geoloc_ros.core.recording.frame import Frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("flight", type=Path, metavar="FOLDER", help="flight folder")
    add("--out", type=Path, required=True, metavar="BAG", help="folder of the bag, which must not exist")
    add("--format", choices=("mcap", "sqlite3"), default="mcap", help="storage (default: mcap)")
    add(
        "--compression",
        choices=("none", "file", "message", "chunk"),
        default="none",
        help="what zstd compresses: the file, each message or, in MCAP only, each chunk (default: none)",
    )
    add("--raw", action="store_true", help="write pixels (sensor_msgs/Image) instead of the image files")
    add("--loop", type=int, default=1, metavar="N", help="fly N times, there and back, for a long bag")


def run(args: argparse.Namespace) -> int:
    from geoloc_ros.core.bags.bag_writer import write_bag
    from geoloc_ros.core.recording.flight_folder import Flight

    flight = Flight.open(args.flight)
    if args.loop < 1:
        raise GeolocError(f"--loop {args.loop} writes nothing; give 1 or more")
    with rated_progress() as progress:
        frames = progress.track(
            _flown(flight, args.loop), total=len(flight) * args.loop, description=f"writing {args.out.name}"
        )
        count = write_bag(args.out, frames, args.format, args.compression, args.raw)
    size_mb = sum(file.stat().st_size for file in args.out.iterdir()) / 1e6
    print(f"{args.out}: {count} frames, {size_mb:.1f} MB")
    return 0


def _flown(flight: Flight, times: int) -> Iterator[Frame]:
    """The flight's frames so many times over: there, back, there again, so that the vehicle never jumps."""
    first_s, last_s = flight.stamp_s(0), flight.stamp_s(len(flight) - 1)
    # One more image's time for the turn.
    round_s = (last_s - first_s) * len(flight) / max(1, len(flight) - 1)
    for number in range(times):
        for place in range(len(flight)):
            frame = flight[place if number % 2 == 0 else len(flight) - 1 - place]
            since_s = frame.stamp_s - first_s if number % 2 == 0 else last_s - frame.stamp_s
            yield (dataclasses.replace(frame, stamp_s=first_s + number * round_s + since_s) if number else frame)
