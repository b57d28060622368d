# SPDX-License-Identifier: Apache-2.0
"""`geoloc demo`: a flight through the live ROS 2 graph, beside the same flight without it."""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from geoloc_models.devices import fix_threads
from geoloc_models.engines.choice import open_engine
from geoloc_models.errors import GeolocError
from geoloc_models.world.generate import generate_world
from geoloc_ros.cli.arguments import add_topic, seed
from geoloc_ros.cli.evaluate import summary_table
from geoloc_ros.cli.recordings import open_told, require_on_map, require_truth
from geoloc_ros.cli.simulate import DEFAULT_CAMERA
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.evaluation.protocols import Evaluation
from geoloc_ros.core.evaluation.scores import Run, summarize
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.reporting.report import write_report
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator
from geoloc_ros.core.simulation.trajectory import Trajectory

WORLD_M, WORLD_GSD_M = 1100.0, 0.3
HEIGHT_M, SPEED_M_S, RATE_HZ, DURATION_S = 120.0, 20.0, 2.0, 90.0
"""The generated flight: pictures of one date over the map of the other."""

ANSWER_S = 5.0
"""How long the answer to a frame may take."""

_GENERATED_NOTE = "generated world: pictures of one date, map of another"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="fly through the live ROS 2 graph and show how well it went",
        description="Play a flight folder, a bag, or a flight over a generated world, through map_server and localizer"
        " as processes; then run `evaluate` on the same flight. Prints both in one table and writes a report"
        " (docs/report.md).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fly live, evaluate, report; 1 if the live graph gave no fix at all."""
    console = Console()
    folder, note = args.flight, args.note
    if folder is None:
        folder, note = generate_flight(args.out / "world", args.seed, console), note or _GENERATED_NOTE
    flight = open_told(folder, args.topic)
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


def generate_flight(folder: Path, seed: int, console: Console) -> Path:
    """A flight over a generated world of two dates, made anew each time; returns the flight folder."""
    with console.status("generating two dates of a world"):
        world = generate_world(WORLD_M, WORLD_GSD_M, seed)
        folder.mkdir(parents=True, exist_ok=True)
        for date in (1, 2):
            world.write_geotiff(folder / f"map_date{date}.tif", date)
    with console.status("flying over it"):
        simulator = CameraSimulator(folder / "map_date1.tif", DEFAULT_CAMERA, TYPICAL, seed)
        path = Trajectory.over(simulator, "loop", HEIGHT_M, SPEED_M_S, seed)
        frames = (
            Frame(
                image=simulator.render_pose(pose),
                stamp_s=pose.stamp_s,
                rotation_enu_from_optical=pose.rotation_enu_from_optical,
                height_m=pose.height_m,
                camera=DEFAULT_CAMERA,
                truth=Truth(pose.lat_deg, pose.lon_deg, pose.height_m),
            )
            for pose in path.sample(RATE_HZ, duration_s=DURATION_S)
        )
        write_flight(folder / "flight", DEFAULT_CAMERA, frames, folder / "map_date2.tif")
        simulator.close()
    return folder / "flight"


def fly_live(flight: Flight | Bag, map_path: Path, args: argparse.Namespace, console: Console) -> Run:
    """Play the flight through the nodes and score what they publish."""
    # ROS is only there where the command really runs: `geoloc --help` works without.
    try:
        from geoloc_ros.cli.live_graph import LiveGraph, Recorder
    except ImportError as error:
        raise GeolocError(
            f"no ROS 2 here ({error}); source /opt/ros/*/setup.bash or run `make demo`"
        ) from error

    recorder = Recorder()
    try:
        with LiveGraph(args.out / "log") as graph, Progress(console=console, transient=True) as progress:
            task = progress.add_task("live", total=len(flight))
            graph.start("map_server", map=str(map_path.resolve()))
            graph.start(
                "localizer",
                use_sim_time=True,
                altitude_type="range",
                weights=args.weights,
                threads=args.threads,
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
    fix_threads(args.threads)
    engine = open_engine(args.weights, threads=args.threads)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluate", total=len(flight))
        evaluation = Evaluation(
            engine, raster, name="evaluate", advance=functools.partial(progress.advance, task)
        )
        return evaluation.tracking(flight, args.prior_noise, args.seed)
