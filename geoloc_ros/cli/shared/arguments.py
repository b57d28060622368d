# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands declare alike."""

import argparse
from pathlib import Path

LARGEST_SEED = 2**31 - 1


def seed(text: str) -> int:
    """A seed that every generator takes, for argparse's `type`."""
    number = int(text)
    if not 0 <= number <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{number} is no seed; give 0 to {LARGEST_SEED}")
    return number


def add_device(parser: argparse._ActionsContainer, text: str = "auto, cpu or cuda") -> None:
    """Declare --device, for `geoloc_models.devices.choose_device`; text: its help."""
    parser.add_argument("--device", default="auto", metavar="D", help=text)


def add_network(parser: argparse._ActionsContainer) -> None:
    """Declare --weights, --device and --threads of a localizer's network."""
    parser.add_argument("--weights", default="default", metavar="W", help="name or file of the weights")
    add_device(parser)
    add_threads(parser)


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Declare --threads, for `geoloc_models.devices.fix_threads`."""
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="CPU threads; fixed, so that figures repeat"
    )


def add_retriever(parser: argparse._ActionsContainer) -> None:
    """Declare --weights and --device of a retrieval network."""
    parser.add_argument("--weights", default="retrieval", metavar="W", help="retrieval weights, name or file")
    add_device(parser)


def add_topic(parser: argparse._ActionsContainer) -> None:
    """Declare --topic, for `geoloc_ros.core.bags.bag.open_recording`."""
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="topic of a bag, for image, camera_info, imu, altitude or truth; needed where several would do",
    )


def add_camera_mount(parser: argparse._ActionsContainer) -> None:
    """Declare --camera-mount, for `geoloc_ros.core.bags.bag.open_recording`."""
    parser.add_argument(
        "--camera-mount",
        type=float,
        nargs=4,
        metavar=("QX", "QY", "QZ", "QW"),
        help="of a bag's camera: quaternion from its optical frame to the FLU body, as the localizer's parameter "
        "camera_mount_xyzw; by default it looks down, the top of the image forward",
    )


def add_json(parser: argparse._ActionsContainer) -> None:
    """Declare --json, for `write_json`."""
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")
