# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench-graph`: camera frames at a steady rate through the live graph; latency, drops and memory."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from geoloc_models.data.world import generate_world
from geoloc_models.errors import GeolocError
from geoloc_ros.core.camera import CameraModel, nadir_rotation
from geoloc_ros.core.flight import Frame, Truth
from geoloc_ros.core.simulator import TYPICAL, CameraSimulator

if TYPE_CHECKING:
    from geoloc_ros.msg import LocalizerStatus

CAMERA = CameraModel(1280, 960, np.array([[980.0, 0.0, 639.5], [0.0, 980.0, 479.5], [0.0, 0.0, 1.0]]))
WORLD_M, WORLD_GSD_M, HEIGHT_M = 600.0, 0.3, 120.0
ROUND_FRAMES, SWAY_M = 80, 6.4
"""To and fro as a pendulum, up to 5 m/s at 10 Hz, on pictures made before: rendering would take processor time."""
MEMORY_EVERY = 50  # frames
START_S = 120.0
"""How long the localizer may take to be ready."""
LAST_ANSWER_S = 2.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench-graph",
        help="measure latency, drops and memory of the live graph under load",
        description=f"Publish raw {CAMERA.width}x{CAMERA.height} frames at a steady rate to map_server and localizer"
        " running as processes, on a generated map. Prints how old fixes are when they come out, how many frames"
        " a newer one replaced, and how the localizer's memory develops.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--frames", metavar="N", type=int, default=2000, help="frames to publish")
    add("--rate-hz", metavar="HZ", type=float, default=10.0, help="frames a second")
    add("--threads", metavar="N", type=int, default=2, help="CPU threads of inference")
    add(
        "--cpus",
        metavar="N",
        type=int,
        default=2,
        help="processors that all processes share; 0: all there are",
    )
    add("--weights", metavar="W", default="default", help="name or file of the network's weights")
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("out/bench_graph"),
        help="folder for map, logs and JSON",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Publish, listen, print the table, write bench_graph.json."""
    if args.frames < 1 or not args.rate_hz > 0:
        raise GeolocError(
            f"{args.frames} frames at {args.rate_hz} Hz cannot be measured; both must be positive"
        )
    if args.cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cpus])  # the nodes inherit it
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    frames = _render(args.out / "map.tif", console)
    figures = _measure(frames, args, console)
    (args.out / "bench_graph.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    table = Table(
        title=f"{args.rate_hz:g} Hz, {CAMERA.width}x{CAMERA.height}, {len(os.sched_getaffinity(0))} CPUs"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, figure in figures.items():
        table.add_row(name.replace("_", " "), str(figure))
    console.print(table)
    return 0


def _render(map_path: Path, console: Console) -> list[Frame]:
    """A generated map and pictures of it from a line through its middle."""
    with console.status("generating a map and pictures of it"):
        generate_world(WORLD_M, WORLD_GSD_M).write_geotiff(map_path, 1)
        simulator = CameraSimulator(map_path, CAMERA, TYPICAL)
        enu, _ = simulator.free_area()
        rotation = nadir_rotation(90.0)
        frames = []
        for step in range(ROUND_FRAMES // 2 + 1):
            lat_deg, lon_deg = enu.to_geodetic(SWAY_M * math.cos(2 * math.pi * step / ROUND_FRAMES), 0.0)
            image = simulator.render(lat_deg, lon_deg, HEIGHT_M, rotation)
            truth = Truth(lat_deg, lon_deg, HEIGHT_M)
            frames.append(Frame(image, 0.0, rotation, HEIGHT_M, CAMERA, truth))
        simulator.close()
    return frames


def _measure(frames: list[Frame], args: argparse.Namespace, console: Console) -> dict[str, float]:
    # ROS is only there where the command really runs: `geoloc --help` works without.
    from geoloc_ros.cli.live_graph import LiveGraph, Recorder
    from geoloc_ros.nodes.frame_topics import FrameTopics
    from geoloc_ros.nodes.prior_client import PriorClient

    recorder = Recorder(altitude_type="range")
    try:
        with LiveGraph(args.out / "log") as graph, Progress(console=console, transient=True) as progress:
            task = progress.add_task("frames", total=args.frames)
            graph.start("map_server", map=str((args.out / "map.tif").resolve()))
            process = graph.start(
                "localizer", altitude_type="range", weights=args.weights, threads=args.threads
            )
            topics = FrameTopics(recorder.node)
            start_place = frames[0].truth
            assert start_place is not None
            PriorClient(recorder.node).set(start_place.lat_deg, start_place.lon_deg, 30.0, START_S)
            memory_mb: list[float] = []
            start = time.monotonic()
            for count in range(args.frames):
                time.sleep(max(0.0, start + count / args.rate_hz - time.monotonic()))
                step = count % ROUND_FRAMES
                frame = frames[min(step, ROUND_FRAMES - step)]
                topics.publish(replace(frame, stamp_s=time.time()))
                graph.check()
                if count % MEMORY_EVERY == 0:
                    memory_mb.append(_resident_mb(process))
                progress.update(task, completed=count + 1)
            published_hz = args.frames / (time.monotonic() - start)
            time.sleep(LAST_ANSWER_S)
            memory_mb.append(_resident_mb(process))
    finally:
        recorder.close()
    statuses = [status for _, status in sorted(recorder.statuses.items())]
    if not statuses:
        raise GeolocError(f"the localizer answered no frame; its log is in {args.out / 'log'}")
    return _figures(statuses, memory_mb, args.frames, published_hz)


def _figures(
    statuses: list[LocalizerStatus], memory_mb: list[float], published: int, published_hz: float
) -> dict[str, float]:
    """What came out, in numbers with their unit in the name."""
    age_ms = np.array([status.latency_age_ms for status in statuses])
    total_ms = np.array([status.latency_total_ms for status in statuses])
    network_ms = np.array([status.latency_network_ms for status in statuses])
    # The first tenth fills caches and pools.
    settled_mb = memory_mb[max(1, len(memory_mb) // 10) :]
    figures = {
        "published": published,
        "published_hz": published_hz,
        "answered": statuses[-1].frames,
        "replaced_by_a_newer_one": statuses[-1].dropped,
        "lost_on_the_way": published - statuses[-1].frames - statuses[-1].dropped,
        "valid_share": np.mean([status.valid for status in statuses]),
        "network_ms_p50": np.nanpercentile(network_ms, 50),
        "localizer_ms_p50": np.percentile(total_ms, 50),
        "image_to_fix_ms_p50": np.percentile(age_ms, 50),
        "image_to_fix_ms_p95": np.percentile(age_ms, 95),
        "image_to_fix_ms_p99": np.percentile(age_ms, 99),
        "image_to_fix_ms_max": age_ms.max(),
        "memory_settled_mb": settled_mb[0],
        "memory_end_mb": settled_mb[-1],
        "memory_max_mb": max(settled_mb),
    }
    return {name: round(float(figure), 3) for name, figure in figures.items()}


def _resident_mb(process: int) -> float:
    """Memory of a process that is in RAM, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
