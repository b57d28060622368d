# SPDX-License-Identifier: Apache-2.0
"""Camera frames at a steady rate through map_server and localizer, and figures of what comes out."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.bench.measuring import cpu_seconds, percentiles, resident_mb
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator

if TYPE_CHECKING:
    from geoloc_ros.cli.shared.live_graph import LiveGraph, Recorder
    from geoloc_ros.msg import LocalizerStatus

FOCAL_SHARE = 0.765  # focal length over the image's width
WORLD_M, WORLD_GSD_M, HEIGHT_M = 600.0, 0.3, 120.0
ROUND_S, SWAY_M, IMAGES = 8.0, 6.4, 41
"""To and fro as a pendulum, up to 5 m/s, on images made before: rendering would take processor time."""
JPEG_QUALITY = 90
MEMORY_EVERY = 50  # frames
START_S = 120.0
"""How long the localizer may take to its first fix."""
LAST_ANSWER_S = 2.0


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


def camera_of(size: str) -> CameraModel:
    """A camera without distortion whose field of view is that of any other size."""
    try:
        width, height = (int(side) for side in size.split("x"))
        if min(width, height) < 64:
            raise ValueError
    except ValueError:
        raise GeolocError(f"size is {size!r}; give width and height of 64 pixels or more, such as 640x480") from None
    focal_px = FOCAL_SHARE * width
    matrix = [[focal_px, 0.0, (width - 1) / 2], [0.0, focal_px, (height - 1) / 2], [0.0, 0.0, 1.0]]
    return CameraModel(width, height, np.array(matrix))


def render(map_path: Path, camera: CameraModel) -> list[Frame]:
    """Images along a line through the map's middle, from its one end to the other, as fast there as a pendulum."""
    simulator = CameraSimulator(map_path, camera, TYPICAL)
    enu, _ = simulator.free_area()
    rotation = nadir_rotation(90.0)
    frames = []
    for step in range(IMAGES):
        lat_deg, lon_deg = enu.to_geodetic(SWAY_M * math.cos(math.pi * step / (IMAGES - 1)), 0.0)
        image = simulator.render(lat_deg, lon_deg, HEIGHT_M, rotation)
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        truth = Truth(lat_deg, lon_deg, HEIGHT_M)
        encoded = jpeg.tobytes()
        frames.append(Frame(image, 0.0, rotation, HEIGHT_M, camera, truth, encoded=encoded))
    simulator.close()
    return frames


def _image_at(round_trip: list[Frame], time_s: float) -> Frame:
    """The image whose place on the way to and fro is nearest to that of a moment."""
    there_and_back = (time_s / ROUND_S) % 1.0
    return round_trip[round(2 * (len(round_trip) - 1) * min(there_and_back, 1.0 - there_and_back))]


def measure(
    load: Load, round_trip: list[Frame], map_path: Path, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    # ROS is only there where the command really runs: `geoloc --help` works without.
    from geoloc_ros.cli.shared.live_graph import LiveGraph, Recorder

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
    replaced = statuses[-1].dropped - max(status.dropped for stamp_ns, status in answers if stamp_ns < first_ns)
    usage = Usage(used["localizer"], used["map_server"], wall_s, memory_mb)
    return {"start_s": round(start_s, 2), **_figures(statuses, replaced, usage, args.frames)}


class _Flight:
    """Publishes the round's images at a steady rate."""

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
        self._topics.publish(replace(_image_at(self._round_trip, due_s), stamp_s=time.time()))
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
