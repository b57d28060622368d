# SPDX-License-Identifier: Apache-2.0
"""`geoloc evaluate`: accuracy on a recorded flight, frame by frame, without DDS."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_camera_mount, add_topic, make_writable, seed

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.evaluation.scores import Run
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.flight_folder import Flight
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer

# Heavy imports wait until the command runs, so that the help page comes at once.

_DESCRIPTION = """\
Run a recorded flight through the localizer frame by frame and compare with its true positions. Figures repeat
to the last digit on one machine. By default the flight is tracked from one prior; with --independent every
frame is searched alone in a map crop that is off by a seeded offset. ma and rds count frames without an answer
as misses; false_fix_rate is the share of valid fixes with the truth beyond 3 sigma and over 20 m off.

With --gallery a lost track is searched on the whole map. --cold-start starts many times over the flight, each time
knowing nothing: found are starts whose first fix, within --start-frames, is right to 20 m; any other fix is wrong.
A flight over another place than --map must be found nowhere. --kidnap tracks the flight, but blinds the camera for
20 s while the vehicle moves on by 300 m, and later sets a prior that is 500 m off."""


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate", help="score a recorded flight or bag against its true positions", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("flight", type=Path, metavar="FLIGHT_OR_BAG", help="flight folder, or rosbag2 (sqlite3 or MCAP)")
    add("--map", type=Path, metavar="M", help="raster to search; default: the flight folder's map.tif")
    add("--json", type=Path, metavar="F", help="write the figures to this file")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="write report.html, report.json, trajectories and errors here; of "
        "--cold-start starts.png and pictures of the places that were weighed",
    )
    add(
        "--prior-noise",
        type=float,
        default=30.0,
        metavar="M",
        help="error of the first prior, m (default: 30)",
    )
    add("--gallery", type=Path, metavar="G", help="gallery of the map (`geoloc gallery build`), for searches; with "
        "--cold-start and --kidnap MAP.gallery by default")  # fmt: skip
    add(
        "--retrieval-weights",
        default="retrieval",
        metavar="W",
        help="that the gallery was made with (default: those that ship)",
    )
    add("--cold-start", action="store_true", help="score starts without any prior")
    add("--starts", type=int, default=10, metavar="N", help="of --cold-start (default: %(default)s)")
    add(
        "--start-frames",
        type=int,
        default=10,
        metavar="N",
        help="frames of each start (default: %(default)s)",
    )
    add("--kidnap", action="store_true", help="track, and move the vehicle while it sees nothing")
    add("--independent", action="store_true", help="score each frame alone instead of tracking")
    add(
        "--crop", type=float, default=200.0, metavar="M",
        help="side of an independent frame's map crop, m (default: 200)",
    )  # fmt: skip
    add(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="also run ncc or xfeat; may be repeated",
    )
    add("--weights", default="default", metavar="W", help="name or file (default: default)")
    add("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    add(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="CPU threads; fixed, so that figures repeat (default: 2)",
    )
    add("--seed", type=seed, default=0, metavar="N", help="seed of all draws (default: 0)")
    add("--frames", type=int, metavar="N", help="use the first N frames only")
    add_topic(parser)
    add_camera_mount(parser)
    add("--note", default="", metavar="TEXT", help="remark on the data that goes into JSON and report")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for."""
    from rich.console import Console

    from geoloc_models.devices import fix_threads
    from geoloc_models.engines import Engine
    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_ros.cli.progress import rated_progress
    from geoloc_ros.cli.recordings import open_told, require_on_map, require_truth
    from geoloc_ros.core.evaluation.baselines.ncc import make_baseline
    from geoloc_ros.core.evaluation.protocols import Evaluation
    from geoloc_ros.core.evaluation.scores import summarize
    from geoloc_ros.core.maps.raster import RasterMap

    fix_threads(args.threads)
    if args.frames is not None and args.frames < 1:
        raise GeolocError(f"--frames {args.frames} leaves nothing to score; give at least 1")
    if args.independent + args.cold_start + args.kidnap > 1:
        raise GeolocError("--independent, --cold-start and --kidnap are three ways to score: choose one")
    if min(args.starts, args.start_frames) < 1:
        raise GeolocError(
            f"{args.starts} starts of {args.start_frames} frames score nothing: give 1 or more of each"
        )
    if args.kidnap and args.frames is not None:
        raise GeolocError("only a whole recording can be staged for a kidnap: leave --frames out")
    recording = open_told(args.flight, args.topic, args.camera_mount)
    require_truth(recording)
    make_writable(args.out, args.json)
    map_path = recording.map_path if args.map is None else args.map
    if args.gallery is None and (args.cold_start or args.kidnap):
        args.gallery = map_path.with_name(map_path.name + ".gallery")
    about = _about(args, recording, map_path)
    network = TorchEngine(args.weights, device=args.device)
    engines: dict[str, Engine] = {"geoloc": network}
    engines |= {name: make_baseline(name, network.spec) for name in dict.fromkeys(args.baseline)}
    runs = []
    if args.cold_start:
        return _cold_start(args, network, recording, map_path)
    with RasterMap(map_path) as raster, rated_progress() as progress:
        require_on_map(recording, raster, map_path)
        # A baseline says nothing that compares across crops, so it is never found again.
        relocalizer = None if args.gallery is None else _relocalizer(args, network, raster)
        for name, engine in engines.items():
            frames = recording if args.frames is None else itertools.islice(recording, args.frames)
            expected = min(len(recording), args.frames or len(recording))
            task = progress.add_task(name, total=expected)
            evaluation = Evaluation(
                engine,
                raster,
                name=name,
                advance=functools.partial(progress.advance, task),
                relocalizer=relocalizer if engine is network else None,
                expected=expected,
            )
            if args.independent:
                done = evaluation.independent(frames, args.crop, args.seed)
            elif args.kidnap:
                done = evaluation.kidnapped(recording, args.prior_noise, args.seed)
            else:
                done = evaluation.tracking(frames, args.prior_noise, args.seed)
            if not done.stopped and all(math.isnan(frame.peak) for frame in done.frames):
                raise GeolocError(f"no frame could be searched on {map_path}: {done.frames[0].reason}")
            done.about |= about
            runs.append(done)
            if done.stopped:
                break
        _write(args, runs, raster)
    Console().print(summary_table([summarize(done) for done in runs], args.flight.name))
    for done in runs:
        for event in done.about.get("kidnaps", []):
            after = event["found_after_s"]
            outcome = "not found again" if after is None else f"found after {after:.1f} s"
            print(f"{done.name}, {event['what']}: {outcome}")
    if runs[-1].stopped:
        print(
            f"geoloc: stopped after {len(runs[-1].frames)} frames: all figures are of those", file=sys.stderr
        )
        return 130
    return 0


def _about(args: argparse.Namespace, recording: Flight | Bag, map_path: Path) -> dict[str, Any]:
    """What the figures are of, for JSON and report."""
    from geoloc_ros.core.bags.bag import Bag

    remark = args.note or ("the map is the flight folder's own" if args.map is None else "")
    about = {"flight": args.flight.name, "map": str(map_path), "note": remark}
    if not isinstance(recording, Bag):
        return about
    return about | {
        "note": " ".join(text for text in (remark, recording.ends_early) if text),
        "topics": {role: topic.name for role, topic in recording.topics.items()},
        "notes": recording.notes,
    }


def _relocalizer(args: argparse.Namespace, network: TorchEngine, raster: RasterMap) -> Relocalizer:
    """What searches the map; GeolocError for a gallery that is missing, or of another map or other weights."""
    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_ros.core.relocalization.gallery import Gallery
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer

    retriever, _ = load_retriever(args.retrieval_weights, args.device)
    gallery = Gallery(args.gallery, retriever.weights_id, raster)
    return Relocalizer(network, retriever, gallery, raster)


def _cold_start(
    args: argparse.Namespace, network: TorchEngine, recording: Flight | Bag, map_path: Path
) -> int:
    """Starts without prior, all along the flight."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from geoloc_ros.core.evaluation.cold_start import cold_starts, summarize_starts
    from geoloc_ros.core.evaluation.scores import rounded
    from geoloc_ros.core.localization.localizer import Localizer
    from geoloc_ros.core.localization.overlay import odds_text
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.reporting.search_plots import write_starts

    with RasterMap(map_path) as raster, Progress(console=Console(stderr=True), transient=True) as progress:
        relocalizer = _relocalizer(args, network, raster)
        task = progress.add_task("starts", total=args.starts)
        starts = cold_starts(
            recording,
            lambda: Localizer(network, raster, relocalizer=relocalizer),
            args.starts,
            args.start_frames,
            functools.partial(progress.advance, task),
        )
        if args.out is not None:
            write_starts(args.out, starts, raster)
    summary = {
        "mode": "cold start",
        "flight": args.flight.name,
        "map": str(map_path),
        "weights": network.spec.weights_id,
        **summarize_starts(starts, args.start_frames),
    }
    table = Table(title=f"{args.flight.name} on {map_path.name}, cold start")
    for heading in ("start", "frames", "seconds", "error m", "odds, best place", "last said"):
        table.add_column(heading)
    for start in starts:
        fixed = start.frames is not None
        table.add_row(
            str(start.index),
            str(start.frames) if fixed else "–",
            f"{start.seconds:.1f}" if fixed else "–",
            f"{start.error_m:.1f}" if fixed else "–",
            odds_text(start.log_odds),
            "wrong fix" if start.wrong else "" if fixed else start.reason,
        )
    Console().print(table)
    took = (
        f"median {summary['frames_median']} frames, {summary['median_error_m']} m; "
        if summary["found"]
        else ""
    )
    print(
        f"{summary['found']} of {len(starts)} starts found the place, {summary['wrong']} gave a wrong fix; "
        f"{took}{summary['frame_ms']['p50']:.0f} ms a frame"
    )
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        each = [
            {
                "index": start.index,
                "frames": start.frames,
                "seconds": rounded(start.seconds, 3),
                "error_m": rounded(start.error_m, 4),
                "log_odds": rounded(start.log_odds, 4),
                "wrong": start.wrong,
                "reason": start.reason,
            }
            for start in starts
        ]
        args.json.write_text(json.dumps(summary | {"each": each}, indent=2, allow_nan=False) + "\n")
    return 0


def _write(args: argparse.Namespace, runs: list[Run], raster: RasterMap) -> None:
    """The files that --json and --out ask for."""
    from geoloc_ros.core.evaluation.scores import summarize
    from geoloc_ros.core.reporting.report import write_report

    if args.json is not None:
        summaries = [summarize(run) for run in runs]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({**summaries[0], "runs": summaries}, indent=2, allow_nan=False) + "\n"
        )
    if args.out is not None:
        write_report(args.out, runs, raster, f"Flight {args.flight.name}", runs[0].about["note"])


def summary_table(summaries: list[dict[str, Any]], flight: str) -> Table:
    """The figures of several runs side by side, for the terminal."""
    from rich.table import Table

    from geoloc_ros.core.reporting.figures import table_rows

    # A run a column: fits a narrow terminal whatever the number of figures.
    headings, rows = table_rows(summaries)
    table = Table(title=f"{flight}, {summaries[0]['mode']}")
    table.add_column(headings[0])
    for row in rows:
        table.add_column(row[0], justify="right")
    for place, heading in enumerate(headings[1:], start=1):
        table.add_row(heading, *(row[place] for row in rows))
    return table
