# SPDX-License-Identifier: Apache-2.0
"""Fly through the live ROS 2 graph and score the fixes.

Play a flight folder, a bag, or a flight over a generated world, through map_server and localizer as processes; then
run `evaluate` on the same flight. Prints both in one table and writes a report (docs/report.md).
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from geoloc_ros.cli.shared.arguments import add_topic, seed
from geoloc_ros.cli.shared.ros import require_ros

if TYPE_CHECKING:
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.evaluation.scores import Run
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.flight_folder import Flight


ANSWER_S = 5.0
"""How long the answer to a frame may take."""


_GENERATED_NOTE = "generated world: images of one date, map of another"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--flight", metavar="FLIGHT", type=Path, help="flight folder or bag; without it a world is generated")
    add_topic(parser)
    add("--map", metavar="MAP", type=Path, help="raster to search; the flight's map.tif if not given")
    add("--out", metavar="DIR", type=Path, default=Path("out/demo"), help="folder to write to")
    add("--rate", metavar="X", type=float, default=10.0, help="speed of the replay at most, 1 is real time")
    add("--no-wait", action="store_true", help="let frames drop where the machine is slower than the replay")
    add("--prior-noise", metavar="M", type=float, default=30.0, help="error of the first prior, m")
    add("--weights", metavar="W", default="default", help="name or file of the network's weights")
    add("--threads", metavar="N", type=int, default=2, help="CPU threads of inference")
    add("--seed", metavar="N", type=seed, default=0, help="of world, flight and prior")
    add("--note", metavar="TEXT", default="", help="remark on the data for the report")


def run(args: argparse.Namespace) -> int:
    """Fly live, evaluate, report; 1 if the live graph gave no fix at all."""
    from geoloc_ros.cli.evaluate import summary_table
    from geoloc_ros.cli.shared.recordings import open_reported, require_on_map, require_truth
    from geoloc_ros.core.evaluation.scores import summarize
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.reporting.report import write_report

    require_ros("demo")
    console = Console()
    folder, note = args.flight, args.note
    if folder is None:
        folder, note = _generate(args, console), note or _GENERATED_NOTE
    flight = open_reported(folder, args.topic)
    require_truth(flight)
    map_path = args.map or flight.map_path
    with RasterMap(map_path) as raster:
        require_on_map(flight, raster, map_path)
        live = fly_live(flight, map_path, args, console)
        offline = _evaluate(flight, raster, args, console)
        for each in (live, offline):
            each.about |= {"flight": folder.name, "map": str(map_path), "note": note}
        # The live graph publishes no views; those of the same frames evaluated stand in for them.
        live.closeups = offline.closeups
        write_report(args.out, [live, offline], raster, f"Flight {folder.name}", note)
    console.print(summary_table([summarize(live), summarize(offline)], folder.name))
    dropped = sum(frame.dropped for frame in live.frames)
    console.print(f"live at {args.rate:g} x: {len(live.frames)} frames played, {dropped} dropped")
    console.print(f"report: {args.out / 'report.html'}")
    if not any(frame.valid for frame in live.frames):
        console.print(f"no fix at all: {live.frames[-1].reason or 'no frame was answered'}")
        return 1
    return 0


def _generate(args: argparse.Namespace, console: Console) -> Path:
    from geoloc_ros.core.simulation.generated_flight import generate_flight

    with console.status("generating a world of two dates and flying over it"):
        return generate_flight(args.out / "world", args.seed)


def fly_live(flight: Flight | Bag, map_path: Path, args: argparse.Namespace, console: Console) -> Run:
    """Play the flight through the nodes and score what they publish."""
    from geoloc_ros.cli.shared.live_graph import LiveGraph, Recorder
    from geoloc_ros.core.evaluation.scores import Run

    recorder = Recorder()
    try:
        with LiveGraph(args.out / "log") as graph, Progress(console=console, transient=True) as progress:
            task = progress.add_task("live", total=len(flight))
            graph.start("map_server", map=str(map_path.resolve()))
            graph.start(
                "localizer", use_sim_time=True, altitude_type="range", weights=args.weights, threads=args.threads
            )
            recorder.wait_for_localizer(graph)
            graph.start(
                "flight_player",
                flight=str(flight.path.resolve()),
                topics=" ".join(args.topic),
                altitude_type="range",
                rate=args.rate,
                answer_s=0.0 if args.no_wait else ANSWER_S,
                prior_noise_m=args.prior_noise,
                seed=args.seed,
            )
            while not graph.ended("flight_player"):
                time.sleep(0.1)
                progress.update(task, completed=len(recorder.statuses))
            recorder.wait_for(flight.stamp_s(len(flight) - 1), ANSWER_S)
    finally:
        recorder.close()
    truths = ((index, flight.truth(index)) for index in range(len(flight)))
    frames = [recorder.score(i, flight.stamp_s(i), truth) for i, truth in truths if truth is not None]
    _, last = max(recorder.statuses.items(), default=(0, None))
    return Run(
        name="live",
        mode="tracking",
        weights=last.weights_id if last else "",
        device=last.device if last else "",
        frames=frames,
        about={"seed": args.seed, "prior_noise_m": args.prior_noise},
    )


def _evaluate(flight: Flight | Bag, raster: RasterMap, args: argparse.Namespace, console: Console) -> Run:
    """The same flight without the graph, on the engine that the localizer takes."""
    from geoloc_models.devices import fix_threads
    from geoloc_models.engines.choice import open_engine
    from geoloc_ros.core.evaluation.protocols import Evaluation

    fix_threads(args.threads)
    engine = open_engine(args.weights, threads=args.threads)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluate", total=len(flight))
        evaluation = Evaluation(engine, raster, name="evaluate", advance=functools.partial(progress.advance, task))
        return evaluation.tracking(flight, args.prior_noise, args.seed)
