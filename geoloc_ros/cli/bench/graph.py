# SPDX-License-Identifier: Apache-2.0
"""Measure the live graph under load.

For each size, rate and transport of images, start map_server and localizer as processes on a generated map and
publish frames at a steady rate. Prints how old fixes are when they come out, how many frames a newer one replaced, the
CPU and memory that the nodes take, and how long they take from launch to the first fix.
"""

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.ros import require_ros

SIZES, RATES_HZ, TRANSPORTS = ("640x480", "1920x1080"), (10.0, 30.0), ("raw", "compressed")
TARGET_START_S, TARGET_MB = 8.0, 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--frames", metavar="N", type=int, default=120, help="frames to publish for each combination")
    add("--sizes", metavar="WxH", nargs="+", default=list(SIZES), help="sizes of images")
    add("--rates-hz", metavar="HZ", type=float, nargs="+", default=list(RATES_HZ), help="frames a second")
    add("--transports", nargs="+", default=list(TRANSPORTS), choices=TRANSPORTS, help="how images are sent")
    add("--threads", metavar="N", type=int, default=2, help="CPU threads of inference")
    add("--cores", metavar="N", type=int, default=2, help="CPU cores that all processes share")
    add("--weights", metavar="W", default="default", help="name or file of the network's weights")
    add("--device", metavar="D", default="auto", help="device of the network: auto, cpu or cuda")
    add("--engine", metavar="E", default="auto", help="engine of the network, as the localizer's parameter")
    add("--out", metavar="DIR", type=Path, default=Path("out/bench"), help="folder for map, logs, JSON")


def run(args: argparse.Namespace) -> int:
    """Publish, listen, print the table, write graph.json."""
    from geoloc_models.world.generate import generate_world
    from geoloc_ros.cli.bench.graph_load import WORLD_GSD_M, WORLD_M, Load, camera_of, measure, render
    from geoloc_ros.cli.bench.measuring import keep_to_cores, percentiles

    if args.frames < 1 or args.cores < 1 or not min(args.rates_hz) > 0:
        raise GeolocError(
            f"{args.frames} frames at {min(args.rates_hz):g} Hz on {args.cores} cores cannot be measured; all must be "
            "positive"
        )
    require_ros("bench graph")
    cameras = {size: camera_of(size) for size in args.sizes}
    keep_to_cores(args.cores)  # the nodes inherit it
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    map_path = (args.out / "graph_map.tif").resolve()
    with console.status("generating a map"):
        generate_world(WORLD_M, WORLD_GSD_M).write_geotiff(map_path, 1)
    rows = []
    for size, camera in cameras.items():
        with console.status(f"images of {size}"):
            round_trip = render(map_path, camera)
        for rate_hz, transport in itertools.product(args.rates_hz, args.transports):
            load = Load(size, rate_hz, transport)
            rows.append({**asdict(load), **measure(load, round_trip, map_path, args, console)})
    report = {
        "frames": args.frames,
        "cores": args.cores,
        "threads": args.threads,
        "weights": rows[0]["weights"],
        "device": rows[0]["device"],
        "start_s": percentiles([row["start_s"] for row in rows]),
        "memory_mb": max(row["memory_end_mb"] for row in rows),
        "rows": rows,
    }
    (args.out / "graph.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print(report, console)
    return 0


def _print(report: dict[str, Any], console: Console) -> None:
    from geoloc_ros.cli.bench.measuring import verdict

    console.print(
        f"{report['weights']} on {report['device']}: {report['frames']} frames a row, {report['cores']} cores for all "
        "processes. Milliseconds from image stamp to fix; fixes; frames that a newer one replaced, or that got lost on "
        "the way; % of one core that localizer and map_server take; MB of the localizer.",
        highlight=False,
        soft_wrap=True,
    )
    left, right = (("image", "sent"), ("Hz", "p50", "p95", "p99", "fixes", "newer", "lost", "%", "map %", "MB"))
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for column in (*left, *right):
        table.add_column(column, no_wrap=True, justify="left" if column in left else "right")
    for row in report["rows"]:
        age = row["image_to_fix_ms"]
        table.add_row(
            row["size"],
            row["transport"],
            f"{row['rate_hz']:g}",
            *(f"{age[p]:.0f}" for p in ("p50", "p95", "p99")),
            f"{row['valid_share'] * row['answered']:.0f}",
            str(row["replaced_by_a_newer_one"]),
            str(row["lost_on_the_way"]),
            f"{row['localizer_cpu_percent']:.0f}",
            f"{row['map_server_cpu_percent']:.0f}",
            f"{row['memory_end_mb']:.0f}",
        )
    console.print(table)
    start = report["start_s"]
    gained_mb = max(row["memory_end_mb"] - row["memory_settled_mb"] for row in report["rows"])
    for line in (
        f"from launch to the first fix: {start['p50']:.1f} s p50, {start['p95']:.1f} s p95, "
        f"{verdict(start['p50'], TARGET_START_S, 's')}",
        f"memory of the localizer: {report['memory_mb']:.0f} MB, {gained_mb:+.1f} MB since it settled, "
        f"{verdict(report['memory_mb'], TARGET_MB, 'MB')}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
