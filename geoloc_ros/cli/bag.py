# SPDX-License-Identifier: Apache-2.0
"""`geoloc bag`: rosbag2 recordings from and to flight folders, and whether they are fit for localization."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_camera_mount, add_topic, add_verbs, make_writable

if TYPE_CHECKING:
    from geoloc_ros.core.bags.bag_check import BagReport
    from geoloc_ros.core.recording.flight_folder import Flight
    from geoloc_ros.core.recording.frame import Frame

# Heavy imports wait until the command runs, so that the help page comes at once.

_FROM = """\
Write a flight folder as a rosbag2 with the topics of a camera drone: /camera/image/compressed (with --raw
/camera/image), /camera/camera_info, /imu, /altitude (height above ground) and /truth. Compressed pictures are the
folder's own files, so that `geoloc evaluate` gives the same figures on both."""

_TO = """\
Write the pictures of a bag that have an attitude, a height and a true position as a flight folder. Topics are found
by message type and name; each picture gets the values of its own moment. JPEG and PNG pictures stay as they are."""

_CHECK = """\
Read a whole bag and say what is in it: rates, gaps, faults of stamps and clocks, the camera, which topics `geoloc
evaluate` would use, and what is missing for localization, with the remedy. Exit status 1 if something that is needed
is missing or wrong."""


def add_parser(subparsers: Any) -> None:
    """Register the subcommand with its three verbs."""
    add_verbs(
        subparsers, "bag", _add_from_flight, _add_to_flight, _add_check,
        summary="convert and check rosbag2 recordings",
        description="rosbag2 recordings, sqlite3 or MCAP: from and to flight folders, fit for localization or not.",
    )  # fmt: skip


def _add_from_flight(verbs: Any) -> None:
    verb = verbs.add_parser("from-flight", help="write a flight folder as a bag", description=_FROM)
    add = verb.add_argument
    add("flight", type=Path, metavar="FOLDER", help="flight folder")
    add("--out", type=Path, required=True, metavar="BAG", help="folder of the bag, which must not exist")
    add("--format", choices=("mcap", "sqlite3"), default="mcap", help="storage (default: mcap)")
    add(
        "--compression",
        choices=("none", "file", "message", "chunk"),
        default="none",
        help="what zstd compresses: the file, each message or, in MCAP only, each chunk (default: none)",
    )
    add("--raw", action="store_true", help="write pixels (sensor_msgs/Image) instead of the picture files")
    add("--loop", type=int, default=1, metavar="N", help="fly N times, there and back, for a long bag")
    verb.set_defaults(run=_from_flight)


def _add_to_flight(verbs: Any) -> None:
    verb = verbs.add_parser("to-flight", help="write a bag as a flight folder", description=_TO)
    add = verb.add_argument
    _add_bag(verb)
    add("--out", type=Path, required=True, metavar="FOLDER", help="flight folder to write")
    add("--map", type=Path, metavar="M", help="raster that becomes the folder's map.tif")
    add_camera_mount(verb)
    verb.set_defaults(run=_to_flight)


def _add_check(verbs: Any) -> None:
    verb = verbs.add_parser("check", help="say whether a bag is fit for localization", description=_CHECK)
    _add_bag(verb)
    verb.add_argument("--json", type=Path, metavar="F", help="also write what was found to this file")
    verb.set_defaults(run=_check)


def _add_bag(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bag", type=Path, metavar="BAG", help="rosbag2: folder, .mcap or .db3 file")
    add_topic(verb)


def _from_flight(args: argparse.Namespace) -> int:
    from geoloc_ros.cli.progress import rated_progress
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
    # One more picture's time for the turn.
    round_s = (last_s - first_s) * len(flight) / max(1, len(flight) - 1)
    for number in range(times):
        for place in range(len(flight)):
            frame = flight[place if number % 2 == 0 else len(flight) - 1 - place]
            since_s = frame.stamp_s - first_s if number % 2 == 0 else last_s - frame.stamp_s
            yield (
                dataclasses.replace(frame, stamp_s=first_s + number * round_s + since_s) if number else frame
            )


def _is_posed(frame: Frame) -> bool:
    rotation = frame.rotation_enu_from_optical
    return rotation is not None and math.isfinite(rotation.sum() + frame.height_m)


def _to_flight(args: argparse.Namespace) -> int:
    from geoloc_ros.cli.progress import rated_progress
    from geoloc_ros.cli.recordings import open_told, require_truth
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.recording.flight_folder import write_flight

    bag = open_told(args.bag, args.topic, args.camera_mount)
    if not isinstance(bag, Bag):
        raise GeolocError(f"{args.bag} is a flight folder already")
    require_truth(bag)
    if (args.out / "flight.csv").exists():
        raise GeolocError(f"{args.out} holds a flight already; remove it or choose another folder")
    make_writable(args.out)
    with rated_progress() as progress:
        read = progress.track(bag, total=len(bag), description=f"writing {args.out.name}")
        complete = (
            frame
            for frame in read
            if frame.image is not None and frame.truth is not None and _is_posed(frame)
        )
        count = write_flight(args.out, bag.camera, complete, args.map)
    left_out = len(bag) - count
    if not count:
        raise GeolocError(
            f"no picture of {args.bag} has an attitude, a height and a true position; "
            "`geoloc bag check` says what is missing"
        )
    lacking = f", {left_out} left out for want of a picture, attitude, height or truth" if left_out else ""
    print(f"{args.out}: {count} frames{lacking}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from geoloc_ros.cli.progress import rated_progress
    from geoloc_ros.core.bags.bag_check import check_bag
    from geoloc_ros.core.bags.bag_topics import parse_topics

    with rated_progress() as progress:
        task = progress.add_task(f"reading {args.bag.name}", total=None)
        found = check_bag(
            args.bag,
            parse_topics(args.topic),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if args.json is not None:
        make_writable(None, args.json)
        args.json.write_text(json.dumps(found.as_json(), indent=2, allow_nan=False) + "\n")
    _print_check(found)
    return 0 if found.usable else 1


def _print_check(found: BagReport) -> None:
    """A table of the topics, how they are used, and what is wrong."""
    from rich.console import Console
    from rich.table import Table

    def number(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    table = Table(title=f"{found.path.name}: {found.duration_s:.1f} s, {found.size_bytes / 1e6:.1f} MB")
    for heading in ("topic", "type"):
        table.add_column(heading, overflow="fold")
    for heading in ("messages", "Hz", "longest gap s", "lag s"):
        table.add_column(heading, justify="right")
    for topic in found.topics:
        kind = topic.msgtype.split("/")[-1]
        gap = number(topic.longest_gap_s, 2)
        table.add_row(
            topic.name, kind, str(topic.count), number(topic.rate_hz, 2), gap, number(topic.lag_s, 3)
        )
    console = Console()
    console.print(table)
    for role, choice in found.roles.items():
        console.print(
            f"{role}: {choice.topic.name}, {choice.why}" if choice.topic else f"{role}: none",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    if found.images:
        shares = ", ".join(f"{found.images[what]} with {what}" for what in ("attitude", "height", "truth"))
        print(f"{found.images['images']} images: {shares}")
    for fault in found.faults:
        print(f"{'MISSING' if fault.needed else 'note'}: {fault.text}")
    print("fit for `geoloc evaluate`" if found.usable else "not fit for localization")
