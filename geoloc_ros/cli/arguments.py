# SPDX-License-Identifier: Apache-2.0
"""What several subcommands declare alike, and check of their arguments."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_SEED = 2**31 - 1


def seed(text: str) -> int:
    """A seed that every generator takes, for argparse's `type`."""
    number = int(text)
    if not 0 <= number <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{number} is no seed; give 0 to {LARGEST_SEED}")
    return number


def add_device(parser: argparse.ArgumentParser, text: str = "auto, cpu or cuda (default: auto)") -> None:
    """Declare --device, for `geoloc_models.devices.choose_device`; text: its help."""
    parser.add_argument("--device", default="auto", metavar="D", help=text)


def add_verbs(
    subparsers: Any, name: str, *verbs: Callable[[Any], None], summary: str, description: str
) -> None:
    """Add a subcommand with verbs of its own, each of which adds itself; summary: for the list of subcommands."""
    parser = subparsers.add_parser(name, help=summary, description=description)
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True, help="one of these")
    for add in verbs:
        add(own)


def add_camera_mount(parser: argparse.ArgumentParser) -> None:
    """Declare --camera-mount, for `geoloc_ros.core.bags.bag.open_recording`."""
    parser.add_argument(
        "--camera-mount",
        type=float,
        nargs=4,
        metavar=("QX", "QY", "QZ", "QW"),
        help="of a bag's camera: quaternion from its optical frame to the FLU body, as the localizer's parameter "
        "camera_mount_xyzw; without, it looks down with the picture's top forward",
    )


def add_topic(parser: argparse.ArgumentParser) -> None:
    """Declare --topic, for `geoloc_ros.core.bags.bag.open_recording`."""
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="topic of a bag, for image, camera_info, imu, altitude or truth; needed where several would do",
    )


def make_writable(folder: Path | None = None, file: Path | None = None) -> None:
    """Make the folder and try the file before hours of work; OSError now rather than at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        file.open("a").close()
        if is_new:
            file.unlink()
