# SPDX-License-Identifier: Apache-2.0
"""Measure milliseconds by stage of a frame that is searched on the whole map.

Search for frames of a recording, in several starts, by PyTorch with every place at full resolution, by PyTorch as it
flies, and by the engines that `geoloc export` has made, in turns, so that other load affects all alike. The stage
"processor" is the time of all cores together, which other load hardly changes. The gallery is extended to each area by
generated vectors, which cost a search as much as real ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_json
from geoloc_ros.cli.shared.output import make_writable, plain_table, print_line, rated_progress, write_json

if TYPE_CHECKING:
    from geoloc_models.engines.network_engine import NetworkEngine
    from geoloc_ros.core.recording.frame import Frame
    from geoloc_ros.core.relocalization.gallery import Gallery
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer

STAGES = ("rectify", "retrieve", "crop", "network", "post", "total", "processor")
TARGETS_MS = {"exported": 500.0, "torch": 1000.0}
"""Medians of a frame to stay under on two cores."""
BEFORE = "torch, all places whole"
START_FRAMES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("flight", type=Path, metavar="FLIGHT_OR_BAG", help="flight folder, or rosbag2")
    add("--map", type=Path, metavar="M", help="raster to search (default: the flight folder's map.tif)")
    add("--gallery", type=Path, metavar="G", help="gallery of the map (default: MAP.gallery)")
    add("--km2", type=float, nargs="+", default=[0.5, 5.0, 50.0], metavar="A", help="areas of the gallery")
    add("--frames", type=int, default=12, metavar="N", help=f"frames to measure, in starts of {START_FRAMES}")
    add("--cores", type=int, default=2, metavar="C", help="CPU cores and threads to use")
    add("--weights", default="default", metavar="W", help="weights of the network, name or file")
    add("--retrieval-weights", default="retrieval", metavar="W", help="weights that the gallery was built with")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from rich.console import Console

    from geoloc_models.devices import fix_threads
    from geoloc_ros.cli.bench.measuring import keep_to_cores, percentiles
    from geoloc_ros.cli.shared.recordings import open_reported
    from geoloc_ros.core.maps.raster import RasterMap

    if args.frames < 1 or args.cores < 1 or min(args.km2) <= 0:
        raise GeolocError("give at least 1 frame, 1 core, and positive areas")
    make_writable(file=args.json)
    keep_to_cores(args.cores)
    fix_threads(args.cores)
    recording = open_reported(args.flight)
    map_path = args.map or recording.map_path
    gallery = args.gallery or map_path.with_name(map_path.name + ".gallery")
    starts = -(-args.frames // START_FRAMES)
    firsts = [round(share * (len(recording) - START_FRAMES) / max(1, starts - 1)) for share in range(starts)]
    console, report = Console(), []
    with RasterMap(map_path) as raster, tempfile.TemporaryDirectory() as scratch, rated_progress() as progress:
        searches = _searches(args, raster, gallery, Path(scratch))
        for engine, search in searches.values():  # the first calls allocate and are slow
            _start(engine, search, list(recording.frames(0, 1)))
        task = progress.add_task("starts", total=len(firsts) * len(searches))
        times: dict[tuple[float, str], dict[str, list[float]]] = {}
        for first in firsts:
            frames = list(recording.frames(first, first + START_FRAMES))
            for key, (engine, search) in searches.items():
                stages = _start(engine, search, frames)
                known = times.setdefault(key, defaultdict(list))
                for stage, values in stages.items():
                    known[stage] += values
                progress.advance(task)
    for (km2, name), stages in times.items():
        report.append({"km2": km2, "engines": name, "frames": len(stages["total"]),
                       "stages_ms": {stage: percentiles(stages[stage]) for stage in STAGES}})  # fmt: skip
    _print(report, console)
    write_json(args.json, {"cores": args.cores, "flight": args.flight.name, "rows": report})
    return 0


def _searches(
    args: argparse.Namespace, raster: Any, gallery: Path, scratch: Path
) -> dict[tuple[float, str], tuple[NetworkEngine, Relocalizer]]:
    """By area and by how it is searched."""
    from geoloc_models.engines.choice import open_engine
    from geoloc_models.engines.retriever_engine import open_retriever
    from geoloc_ros.core.matching.settings import LocalizerSettings
    from geoloc_ros.core.relocalization.gallery import Gallery
    from geoloc_ros.core.relocalization.relocalizer import WHOLE_PLACES, Relocalizer

    settings = LocalizerSettings()
    eager, fast = (open_engine(args.weights, "cpu", args.cores, name) for name in ("torch", "auto"))
    plain, quick = (open_retriever(args.retrieval_weights, "cpu", args.cores, name) for name in ("torch", "auto"))
    own = Gallery(gallery, plain.weights_id, raster)
    ways = {BEFORE: (eager, plain, settings.search.places), "torch": (eager, plain, WHOLE_PLACES)}
    if not fast.spec.name.startswith("torch"):
        ways[f"exported ({fast.spec.name}, {quick.engine})"] = (fast, quick, WHOLE_PLACES)
    searches = {}
    for km2 in args.km2:
        whole = _extended(own, km2, scratch)
        for name, (engine, retriever, places) in ways.items():
            searches[km2, name] = engine, Relocalizer(engine, retriever, whole, raster, settings, places)
    return searches


def _extended(own: Gallery, km2: float, scratch: Path) -> Gallery:
    """The gallery with generated vectors of places north of it, as many as that area has tiles."""
    import numpy as np

    from geoloc_ros.cli.bench.gallery_vectors import generate
    from geoloc_ros.core.relocalization.gallery import Gallery, probe_rows, write_header

    info = own.info
    tiles = round(km2 * len(info.tile_m) * (1000 / info.stride_m) ** 2)
    if tiles <= len(own):
        return own
    more, _ = generate(tiles - len(own), own.dim, 1, scratch / "vectors.raw")
    rows = np.arange(len(more))
    arrays = {
        "vectors": np.concatenate([own.vectors, more]),
        "lat_deg": np.concatenate([own.lat_deg, own.bounds_deg[2] + 0.1 + 0.0005 * (rows // 256)]),
        "lon_deg": np.concatenate([own.lon_deg, own.bounds_deg[1] + 0.0005 * (rows % 256)]),
        "size_m": np.concatenate([own.size_m, np.resize(np.array(info.tile_m), len(more))]).astype(np.float32),
        "probes": np.zeros((len(probe_rows(tiles)), 16, 16, 3), np.uint8),
    }
    kinds = {"vectors": "F16", "lat_deg": "F64", "lon_deg": "F64", "size_m": "F32", "probes": "U8"}
    path = scratch / f"{km2:g}.gallery"
    header = write_header(info, {name: (kinds[name], array.shape) for name, array in arrays.items()})
    path.write_bytes(header + b"".join(array.tobytes() for array in arrays.values()))
    return Gallery(path)


def _start(engine: NetworkEngine, search: Relocalizer, frames: list[Frame]) -> dict[str, list[float]]:
    """Milliseconds by stage of the frames of one start, which knows no map yet."""
    from geoloc_ros.core.matching.gates import Refused

    stages: dict[str, list[float]] = defaultdict(list)
    engine.forget_maps()
    search.start()
    for frame in frames:
        begin_s = time.process_time()
        try:
            found = search.process(frame)
        except Refused as refused:
            raise GeolocError(f"the frame at {frame.stamp_s} s was refused: {refused}") from None
        for stage, value in found.times.ms.items():
            stages[stage].append(value)
        stages["total"].append(sum(found.times.ms.values()))
        stages["processor"].append(1e3 * (time.process_time() - begin_s))
    return stages


def _print(report: list[dict[str, Any]], console: Any) -> None:
    from geoloc_ros.cli.bench.measuring import verdict

    print_line(console, "milliseconds of a search frame by stage, p50 / p95; retrieve: embedding and gallery")
    for km2 in dict.fromkeys(row["km2"] for row in report):
        rows = [row for row in report if row["km2"] == km2]
        table = plain_table((f"{km2:g} km²",), tuple(row["engines"].partition(" (")[0] for row in rows))
        for stage in STAGES:
            figures = [row["stages_ms"][stage] for row in rows]
            table.add_row(stage, *(f"{ms['p50']:.0f} / {ms['p95']:.0f}" for ms in figures))
        console.print(table)
    for row in report:
        if row["engines"] == BEFORE:
            continue
        target = TARGETS_MS[row["engines"].partition(" ")[0]]
        text = verdict(row["stages_ms"]["total"]["p50"], target, "ms")
        print_line(
            console, f"{row['km2']:g} km², {row['engines']}: {row['stages_ms']['total']['p50']:.0f} ms p50, {text}"
        )
    if len({row["engines"] for row in report}) < 3:
        print_line(console, "no exported engine: `geoloc export` makes those that are faster here")
