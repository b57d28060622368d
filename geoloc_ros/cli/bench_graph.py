# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench-graph`: camera frames at a steady rate through the live graph; latency, drops, CPU, memory, start."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_models.world.generate import generate_world
from geoloc_ros.cli.measuring import cpu_seconds, keep_to_cores, percentiles, resident_mb, verdict
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator

if TYPE_CHECKING:
    from geoloc_ros.cli.live_graph import LiveGraph, Recorder
    from geoloc_ros.msg import LocalizerStatus

SIZES, RATES_HZ, TRANSPORTS = ("640x480", "1920x1080"), (10.0, 30.0), ("raw", "compressed")
FOCAL_SHARE = 0.765  # focal length over the picture's width
WORLD_M, WORLD_GSD_M, HEIGHT_M = 600.0, 0.3, 120.0
ROUND_S, SWAY_M, PICTURES = 8.0, 6.4, 41
"""To and fro as a pendulum, up to 5 m/s, on pictures made before: rendering would take processor time."""
JPEG_QUALITY = 90
MEMORY_EVERY = 50  # frames
START_S = 120.0
"""How long the localizer may take to its first fix."""
LAST_ANSWER_S = 2.0
TARGET_START_S, TARGET_MB = 8.0, 900.0


@dataclass(frozen=True)
class Load:
    """What the camera sends."""

    size: str
    rate_hz: float
    transport: str

    def __str__(self) -> str:
        return f"{self.size} {self.transport} at {self.rate_hz:g} Hz"


@dataclass(frozen=True)
class Usage:
    """Processor seconds and memory of the nodes before, during and after the measured frames."""

    localizer_s: float
    map_server_s: float
    wall_s: float
    memory_mb: list[float]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench-graph",
        help="measure latency, drops, CPU and memory of the live graph under load",
        description="For each size, rate and transport of pictures, start map_server and localizer as processes on a "
        "generated map and publish frames at a steady rate. Prints how old fixes are when they come out, how many "
        "frames a newer one replaced, the CPU and memory that the nodes take, and how long they take from launch to "
        "the first fix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--frames", metavar="N", type=int, default=120, help="frames to publish for each combination")
    add("--sizes", metavar="WxH", nargs="+", default=list(SIZES), help="sizes of pictures")
    add("--rates-hz", metavar="HZ", type=float, nargs="+", default=list(RATES_HZ), help="frames a second")
    add("--transports", nargs="+", default=list(TRANSPORTS), choices=TRANSPORTS, help="how pictures are sent")
    add("--threads", metavar="N", type=int, default=2, help="CPU threads of inference")
    add("--cores", metavar="N", type=int, default=2, help="CPU cores that all processes share")
    add("--weights", metavar="W", default="default", help="name or file of the network's weights")
    add("--device", metavar="D", default="auto", help="device of the network: auto, cpu or cuda")
    add("--engine", metavar="E", default="auto", help="engine of the network, as the localizer's parameter")
    add("--out", metavar="DIR", type=Path, default=Path("out/bench"), help="folder for map, logs, JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Publish, listen, print the table, write graph.json."""
    if args.frames < 1 or args.cores < 1 or not min(args.rates_hz) > 0:
        raise GeolocError(
            f"{args.frames} frames at {min(args.rates_hz):g} Hz on {args.cores} cores cannot be measured; all must be "
            "positive"
        )
    cameras = {size: _camera(size) for size in args.sizes}
    keep_to_cores(args.cores)  # the nodes inherit it
    console = Console()
    args.out.mkdir(parents=True, exist_ok=True)
    map_path = (args.out / "graph_map.tif").resolve()
    with console.status("generating a map"):
        generate_world(WORLD_M, WORLD_GSD_M).write_geotiff(map_path, 1)
    rows = []
    for size, camera in cameras.items():
        with console.status(f"pictures of {size}"):
            round_trip = _render(map_path, camera)
        for rate_hz, transport in itertools.product(args.rates_hz, args.transports):
            load = Load(size, rate_hz, transport)
            rows.append({**asdict(load), **_measure(load, round_trip, map_path, args, console)})
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


def _camera(size: str) -> CameraModel:
    """A camera without distortion whose field of view is that of any other size."""
    try:
        width, height = (int(side) for side in size.split("x"))
        if min(width, height) < 64:
            raise ValueError
    except ValueError:
        raise GeolocError(
            f"size is {size!r}; give width and height of 64 pixels or more, such as 640x480"
        ) from None
    focal_px = FOCAL_SHARE * width
    matrix = [[focal_px, 0.0, (width - 1) / 2], [0.0, focal_px, (height - 1) / 2], [0.0, 0.0, 1.0]]
    return CameraModel(width, height, np.array(matrix))


def _render(map_path: Path, camera: CameraModel) -> list[Frame]:
    """Pictures along a line through the map's middle, from its one end to the other, as fast there as a pendulum."""
    simulator = CameraSimulator(map_path, camera, TYPICAL)
    enu, _ = simulator.free_area()
    rotation = nadir_rotation(90.0)
    frames = []
    for step in range(PICTURES):
        lat_deg, lon_deg = enu.to_geodetic(SWAY_M * math.cos(math.pi * step / (PICTURES - 1)), 0.0)
        image = simulator.render(lat_deg, lon_deg, HEIGHT_M, rotation)
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        truth = Truth(lat_deg, lon_deg, HEIGHT_M)
        encoded = jpeg.tobytes()
        frames.append(Frame(image, 0.0, rotation, HEIGHT_M, camera, truth, encoded=encoded))
    simulator.close()
    return frames


def _picture_at(round_trip: list[Frame], time_s: float) -> Frame:
    """The picture whose place on the way to and fro is nearest to that of a moment."""
    there_and_back = (time_s / ROUND_S) % 1.0
    return round_trip[round(2 * (len(round_trip) - 1) * min(there_and_back, 1.0 - there_and_back))]


def _measure(
    load: Load, round_trip: list[Frame], map_path: Path, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    # ROS is only there where the command really runs: `geoloc --help` works without.
    from geoloc_ros.cli.live_graph import LiveGraph, Recorder

    recorder = Recorder(altitude_type="range", image_transport=load.transport)
    try:
        with LiveGraph(args.out / "log") as graph, Progress(console=console, transient=True) as progress:
            task = progress.add_task(str(load), total=args.frames)
            launched = time.monotonic()
            processes = {
                "map_server": graph.start("map_server", map=str(map_path)),
                "localizer": graph.start(
                    "localizer",
                    altitude_type="range",
                    image_transport=load.transport,
                    weights=args.weights,
                    device=args.device,
                    engine=args.engine,
                    threads=args.threads,
                ),
            }
            flown = _Flight(graph, recorder, load.rate_hz, round_trip)
            flown.until_first_fix()
            start_s = time.monotonic() - launched
            before = {name: cpu_seconds(process) for name, process in processes.items()}
            first_ns, began = time.time_ns(), time.monotonic()
            memory_mb = []
            for count in range(args.frames):
                flown.publish_next()
                if count % MEMORY_EVERY == 0:
                    memory_mb.append(resident_mb(processes["localizer"]))
                progress.update(task, completed=count + 1)
            wall_s = time.monotonic() - began
            used = {name: cpu_seconds(process) - before[name] for name, process in processes.items()}
            time.sleep(LAST_ANSWER_S)
            memory_mb.append(resident_mb(processes["localizer"]))
    finally:
        recorder.close()
    answers = sorted(recorder.statuses.items())
    statuses = [status for stamp_ns, status in answers if stamp_ns >= first_ns]
    if not statuses:
        raise GeolocError(f"the localizer answered none of the frames; its log is in {args.out / 'log'}")
    replaced = statuses[-1].dropped - max(
        status.dropped for stamp_ns, status in answers if stamp_ns < first_ns
    )
    usage = Usage(used["localizer"], used["map_server"], wall_s, memory_mb)
    return {"start_s": round(start_s, 2), **_figures(statuses, replaced, usage, args.frames)}


class _Flight:
    """Publishes the round's pictures at a steady rate."""

    def __init__(self, graph: LiveGraph, recorder: Recorder, rate_hz: float, round_trip: list[Frame]) -> None:
        from geoloc_ros.nodes.frame_topics import FrameTopics

        self._graph, self._recorder = graph, recorder
        self._topics = FrameTopics(recorder.node)
        self._period_s, self._round_trip = 1.0 / rate_hz, round_trip
        self._count = 0

    def until_first_fix(self) -> None:
        """Give the prior once the localizer takes one, and fly until a fix comes; GeolocError if none does."""
        from geoloc_ros.nodes.prior_client import PriorClient

        start = self._round_trip[0].truth
        assert start is not None
        end = time.monotonic() + START_S
        self._recorder.wait_for_localizer(self._graph)
        PriorClient(self._recorder.node).set(start.lat_deg, start.lon_deg, 30.0, START_S)
        self._began = time.monotonic()
        while not self._recorder.first_fix.is_set():
            self.publish_next()
            if time.monotonic() > end:
                reasons = {status.reason for status in self._recorder.statuses.values()}
                raise GeolocError(
                    f"no fix within {START_S:g} s of launch: {'; '.join(sorted(reasons)) or 'no frame was answered'}"
                )

    def publish_next(self) -> None:
        """Wait for the next frame's moment and publish it."""
        due_s = self._count * self._period_s
        time.sleep(max(0.0, self._began + due_s - time.monotonic()))
        self._topics.publish(replace(_picture_at(self._round_trip, due_s), stamp_s=time.time()))
        self._graph.check()
        self._count += 1


def _figures(statuses: list[LocalizerStatus], replaced: int, usage: Usage, published: int) -> dict[str, Any]:
    """What came out, in numbers with their unit in the name."""
    from geoloc_ros.messages.status import LATENCIES, latencies_ms

    rows = [latencies_ms(status) for status in statuses]
    found = {name: [row[name] for row in rows if name in row] for name in LATENCIES}
    ms = {name: percentiles(values) for name, values in found.items() if values}
    # The first tenth fills caches and pools.
    settled_mb = usage.memory_mb[max(1, len(usage.memory_mb) // 10) :]
    return {
        "published": published,
        "published_hz": round(published / usage.wall_s, 2),
        "answered": len(statuses),
        "replaced_by_a_newer_one": replaced,
        "lost_on_the_way": max(0, published - len(statuses) - replaced),
        "valid_share": round(float(np.mean([status.valid for status in statuses])), 3),
        "image_to_fix_ms": ms.pop("age"),
        "stages_ms": ms,
        "localizer_cpu_percent": round(100 * usage.localizer_s / usage.wall_s, 1),
        "map_server_cpu_percent": round(100 * usage.map_server_s / usage.wall_s, 1),
        "memory_settled_mb": settled_mb[0],
        "memory_end_mb": settled_mb[-1],
        "memory_max_mb": max(settled_mb),
        "memory_mb": usage.memory_mb,
        "weights": statuses[-1].weights_id,
        "device": statuses[-1].device,
    }


def _print(report: dict[str, Any], console: Console) -> None:
    console.print(
        f"{report['weights']} on {report['device']}: {report['frames']} frames a row, {report['cores']} cores for all "
        "processes. Milliseconds from image stamp to fix; fixes; frames that a newer one replaced, or that got lost on "
        "the way; % of one core that localizer and map_server take; MB of the localizer.",
        highlight=False,
        soft_wrap=True,
    )
    left, right = (
        ("picture", "sent"),
        ("Hz", "p50", "p95", "p99", "fixes", "newer", "lost", "%", "map %", "MB"),
    )
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
