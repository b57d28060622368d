# SPDX-License-Identifier: Apache-2.0
"""Check whether a bag is fit for localization.

Read a whole bag and say what is in it: rates, gaps, faults of stamps and clocks, the camera, which topics `geoloc
evaluate` would use, and what is missing for localization, with the remedy. Exit status 1 if something that is needed
is missing or wrong.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_ros.cli.shared.arguments import add_topic
from geoloc_ros.cli.shared.output import make_writable, rated_progress

if TYPE_CHECKING:
    from geoloc_ros.core.bags.bag_check import BagReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bag(parser)
    parser.add_argument("--json", type=Path, metavar="F", help="also write what was found to this file")


def add_bag(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("bag", type=Path, metavar="BAG", help="rosbag2: folder, .mcap or .db3 file")
    add_topic(verb)


def run(args: argparse.Namespace) -> int:
    from geoloc_ros.core.bags.bag_check import check_bag
    from geoloc_ros.core.bags.bag_topics import parse_topics

    with rated_progress() as progress:
        task = progress.add_task(f"reading {args.bag.name}", total=None)
        found = check_bag(
            args.bag, parse_topics(args.topic), lambda done, total: progress.update(task, completed=done, total=total)
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
        table.add_row(topic.name, kind, str(topic.count), number(topic.rate_hz, 2), gap, number(topic.lag_s, 3))
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
