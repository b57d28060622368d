# SPDX-License-Identifier: Apache-2.0
"""Score a flight or bag against its true positions.

Run a recorded flight through the localizer frame by frame and compare with its true positions. Figures repeat to the
last digit on one machine. By default the flight is tracked from one prior; with --independent every frame is searched
alone in a map crop that is off by a seeded offset. ma and rds count frames without an answer as misses; false_fix_rate
is the share of valid fixes with the truth beyond 3 sigma and over 20 m off. With --gallery a lost track is searched on
the whole map. --cold-start starts many times over the flight, each time knowing nothing: found are starts whose first
fix, within --start-frames, is right to 20 m; any other fix is wrong. A flight over another place than --map must be
found nowhere. --kidnap tracks the flight, but blinds the camera for 20 s while the vehicle moves on by 300 m, and
later sets a prior that is 500 m off. --gap tracks through frames without
a match. --heading-error and --height-error make the vehicle report a constant error; --every and --rate-hz leave out
images. The engine is float32 PyTorch on a CPU unless --engine names what flies.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_camera_mount, add_json, add_network, add_topic, seed
from geoloc_ros.cli.shared.output import make_writable, rated_progress, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_models.engines.network_engine import NetworkEngine
    from geoloc_ros.core.bags.bag import Bag
    from geoloc_ros.core.evaluation.cold_start import Start
    from geoloc_ros.core.evaluation.protocols import Evaluation
    from geoloc_ros.core.evaluation.scores import Run
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.matching.settings import LocalizerSettings
    from geoloc_ros.core.recording.flight_folder import Flight
    from geoloc_ros.core.recording.frame import Recording
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, in groups."""
    add = parser.add_argument
    add("flight", type=Path, metavar="FLIGHT_OR_BAG", help="flight folder, or rosbag2 (sqlite3 or MCAP)")
    add("--map", type=Path, metavar="M", help="raster to search (default: the flight folder's map.tif)")
    add("--frames", type=int, metavar="N", help="use the first N frames only")
    add("--every", type=int, default=1, metavar="N", help="use every Nth frame of the recording, stamps as recorded")
    add("--rate-hz", type=float, default=math.inf, metavar="R", help="use frames at this rate at most")
    add_topic(parser)
    add_camera_mount(parser)
    add(
        "--setting", action="append", default=[], metavar="NAME=VALUE",
        help="one of the localizer's parameters, such as map.sigma_m=0.1; may be repeated",
    )  # fmt: skip
    _add_protocols(parser.add_argument_group("protocols"))
    _add_networks(parser.add_argument_group("networks"))
    _add_outputs(parser.add_argument_group("outputs"))


def _add_protocols(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--prior-noise", type=float, default=30.0, metavar="M", help="error of the first prior, m")
    add("--independent", action="store_true", help="score each frame alone instead of tracking")
    add("--crop", type=float, default=200.0, metavar="M", help="side of an independent frame's map crop, m")
    add("--cold-start", action="store_true", help="score starts without a prior position")
    add("--starts", type=int, default=10, metavar="N", help="of --cold-start")
    add("--start-frames", type=int, default=10, metavar="N", help="frames of each start")
    add("--kidnap", action="store_true", help="track, and move the vehicle while it sees nothing")
    add("--gap", metavar="FIRST-LAST", help="track, while these frames cannot be matched, such as 60-100")
    add(
        "--gap-shows",
        choices=("blank", "noise", "elsewhere", "ground"),
        default="blank",
        metavar="WHAT",
        help="in the gap: blank, noise, elsewhere (images of another part of the flight), or ground without a map",
    )
    add("--heading-error", type=float, default=0.0, metavar="D",
        help="put a constant error into the reported heading, degrees clockwise")  # fmt: skip
    add("--height-error", type=float, default=0.0, metavar="P",
        help="put a constant error into the reported height, percent")  # fmt: skip
    add("--seed", type=seed, default=0, metavar="N", help="seed of all draws")


def _add_networks(group: argparse._ArgumentGroup) -> None:
    add_network(group)
    add = group.add_argument
    add(
        "--engine", default="torch", metavar="E",
        help="engine of the network, as the localizer's parameter (auto: the fastest that was exported)",
    )  # fmt: skip
    add(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="also run ncc, xfeat or another; may be repeated",
    )
    add("--gallery", type=Path, metavar="G", help="gallery of the map (`geoloc gallery build`), for searches "
        "(default with --cold-start and --kidnap: MAP.gallery)")  # fmt: skip
    add("--retrieval-weights", default="retrieval", metavar="W", help="weights that the gallery was built with")


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add_json(group)
    add = group.add_argument
    add("--out", type=Path, metavar="DIR", help="write report.html, report.json, trajectories and errors here; of "
        "--cold-start starts.png and images of the places that were weighed")  # fmt: skip
    add("--note", default="", metavar="TEXT", help="remark on the data that goes into JSON and report")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for."""
    from geoloc_models.devices import fix_threads
    from geoloc_models.engines.choice import open_engine
    from geoloc_ros.cli.shared.recordings import open_reported, require_truth

    fix_threads(args.threads)
    _check(args)
    recording = open_reported(args.flight, args.topic, args.camera_mount)
    _as_seen(args, recording)  # refuses impossible errors before any work
    require_truth(recording)
    make_writable(args.out, args.json)
    map_path = recording.map_path if args.map is None else args.map
    if args.gallery is None and (args.cold_start or args.kidnap):
        args.gallery = map_path.with_name(map_path.name + ".gallery")
    network = open_engine(args.weights, args.device, args.threads, args.engine)
    if args.cold_start:
        return _cold_start(args, network, recording, map_path)
    return _flight(args, network, recording, map_path)


def _check(args: argparse.Namespace) -> None:
    """GeolocError for arguments that contradict each other or score nothing."""
    if args.frames is not None and args.frames < 1:
        raise GeolocError(f"--frames {args.frames} leaves nothing to score; give at least 1")
    if args.independent + args.cold_start + args.kidnap + (args.gap is not None) > 1:
        raise GeolocError("--independent, --cold-start, --kidnap and --gap are four ways to score: choose one")
    if min(args.starts, args.start_frames) < 1:
        raise GeolocError(f"{args.starts} starts of {args.start_frames} frames score nothing: give 1 or more of each")
    if (args.kidnap or args.gap) and args.frames is not None:
        raise GeolocError("only a whole recording can be staged for a kidnap or a gap: leave --frames out")
    if args.gap is not None and not re.fullmatch(r"\d+-\d+", args.gap):
        raise GeolocError(f"--gap {args.gap} is no FIRST-LAST such as 60-100")


def _flight(args: argparse.Namespace, network: NetworkEngine, recording: Flight | Bag, map_path: Path) -> int:
    """The whole flight by the network and each baseline: tracked, kidnapped, or each frame alone."""
    from rich.console import Console

    from geoloc_models.engines import Engine
    from geoloc_ros.cli.shared.recordings import require_on_map
    from geoloc_ros.core.evaluation.baselines.ncc import make_baseline
    from geoloc_ros.core.evaluation.protocols import Evaluation
    from geoloc_ros.core.evaluation.scores import summarize
    from geoloc_ros.core.maps.raster import RasterMap

    engines: dict[str, Engine] = {"geoloc": network}
    engines |= {name: make_baseline(name, network.spec) for name in dict.fromkeys(args.baseline)}
    settings = _settings(args)
    runs: list[Run] = []
    with RasterMap(map_path) as raster, rated_progress() as progress:
        require_on_map(recording, raster, map_path)
        # Scores of a baseline do not compare across crops: it cannot relocalize.
        relocalizer = None if args.gallery is None else _relocalizer(args, network, raster)
        frames = len(_as_seen(args, recording))
        expected = min(frames, args.frames or frames)
        for name, engine in engines.items():
            task = progress.add_task(name, total=expected)
            evaluation = Evaluation(
                engine,
                raster,
                settings,
                name=name,
                advance=functools.partial(progress.advance, task),
                relocalizer=relocalizer if engine is network else None,
                expected=expected,
            )
            done = _score(evaluation, args, recording)
            if not done.stopped and all(math.isnan(frame.peak) for frame in done.frames):
                raise GeolocError(f"no frame could be searched on {map_path}: {done.frames[0].reason}")
            done.about |= _about(args, recording, map_path)
            runs.append(done)
            if done.stopped:
                break
        _write(args, runs, raster)
    Console().print(summary_table([summarize(done) for done in runs], args.flight.name))
    return _print_events(runs)


def _as_seen(args: argparse.Namespace, recording: Recording) -> Recording:
    """The recording without the frames that the arguments leave out, with the errors that they put in."""
    from geoloc_ros.core.evaluation.misreported import Misreported
    from geoloc_ros.core.evaluation.thinned import Thinned

    if args.every != 1 or math.isfinite(args.rate_hz):
        recording = Thinned(recording, args.every, args.rate_hz)
    if not (args.heading_error or args.height_error):
        return recording
    return Misreported(recording, args.heading_error, args.height_error)


def _settings(args: argparse.Namespace) -> LocalizerSettings:
    """The defaults with those of --setting; GeolocError for an unknown name or an impossible value."""
    from geoloc_ros.core.matching.settings import LocalizerSettings

    values: dict[str, Any] = {}
    for text in args.setting:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise GeolocError(f"--setting {text} is no NAME=VALUE with a number, such as map.sigma_m=0.1") from None
    return LocalizerSettings.of(values)


def _score(evaluation: Evaluation, args: argparse.Namespace, recording: Recording) -> Run:
    """By the protocol that the arguments choose."""
    from geoloc_ros.core.evaluation.gap import Gap

    recording = _as_seen(args, recording)
    frames = recording if args.frames is None else itertools.islice(recording, args.frames)
    if args.independent:
        return evaluation.independent(frames, args.crop, args.seed)
    if args.kidnap:
        return evaluation.kidnapped(recording, args.prior_noise, args.seed)
    if args.gap:
        first, last = map(int, args.gap.split("-"))
        return evaluation.through_gap(recording, Gap(first, last, args.gap_shows), args.prior_noise, args.seed)
    return evaluation.tracking(frames, args.prior_noise, args.seed)


def _print_events(runs: list[Run]) -> int:
    """How each kidnap ended, and whether the run was stopped; the exit status."""
    for done in runs:
        for event in done.about.get("kidnaps", []):
            after = event["found_after_s"]
            outcome = "not found again" if after is None else f"found after {after:.1f} s"
            print(f"{done.name}, {event['what']}: {outcome}")
        if gap := done.about.get("gap"):
            off = "no track" if gap["error_m"] is None else f"{gap['error_m']:.1f} m off ({gap['error_percent']:.2f} %)"
            after = gap["found_after_s"]
            outcome = "not found again" if after is None else f"first fix {after:.1f} s after the first good frame"
            flown = f"{gap['flown_m']:.0f} m flown, {gap['state_at_end']}, {off}"
            print(f"{done.name}, {gap['what']}: {flown}; {outcome}; {gap['false_fixes']} false fixes")
    if not runs[-1].stopped:
        return 0
    print(f"geoloc: stopped after {len(runs[-1].frames)} frames: all figures are of those", file=sys.stderr)
    return 130


def _about(args: argparse.Namespace, recording: Flight | Bag, map_path: Path) -> dict[str, Any]:
    """What the figures are of, for JSON and report."""
    from geoloc_ros.core.bags.bag import Bag

    remark = args.note or ("the map is the flight folder's own" if args.map is None else "")
    about: dict[str, Any] = {"flight": args.flight.name, "map": str(map_path), "note": remark}
    if args.every != 1 or math.isfinite(args.rate_hz):
        about["left"] = {"every": args.every, "rate_hz": args.rate_hz if math.isfinite(args.rate_hz) else None}
    if args.heading_error or args.height_error:
        about["put_in"] = {"heading_deg": args.heading_error, "height_percent": args.height_error}
    if not isinstance(recording, Bag):
        return about
    return about | {
        "note": " ".join(text for text in (remark, recording.ends_early) if text),
        "topics": {role: topic.name for role, topic in recording.topics.items()},
        "notes": recording.notes,
    }


def _relocalizer(args: argparse.Namespace, network: NetworkEngine, raster: RasterMap) -> Relocalizer:
    """What searches the map; GeolocError for a gallery that is missing, or of another map or other weights."""
    from geoloc_models.engines.retriever_engine import open_retriever
    from geoloc_ros.core.relocalization.gallery import Gallery
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer

    retriever = open_retriever(args.retrieval_weights, args.device, args.threads, args.engine)
    gallery = Gallery(args.gallery, retriever.weights_id, raster)
    return Relocalizer(network, retriever, gallery, raster, _settings(args))


def _cold_start(args: argparse.Namespace, network: NetworkEngine, recording: Flight | Bag, map_path: Path) -> int:
    """Starts without prior, all along the flight."""
    from rich.console import Console
    from rich.progress import Progress

    from geoloc_ros.core.evaluation.cold_start import cold_starts, summarize_starts
    from geoloc_ros.core.evaluation.scores import rounded
    from geoloc_ros.core.localization.localizer import Localizer
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.reporting.search_plots import write_starts

    settings = _settings(args)
    with RasterMap(map_path) as raster, Progress(console=Console(stderr=True), transient=True) as progress:
        relocalizer = _relocalizer(args, network, raster)
        task = progress.add_task("starts", total=args.starts)
        starts = cold_starts(
            _as_seen(args, recording),
            lambda: Localizer(network, raster, settings, relocalizer),
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
        "device": network.spec.label,
        "weights": network.spec.weights_id,
        **summarize_starts(starts, args.start_frames),
    }
    _print_starts(starts, f"{args.flight.name} on {map_path.name}, cold start")
    took = f"median {summary['frames_median']} frames, {summary['median_error_m']} m; " if summary["found"] else ""
    print(
        f"{summary['found']} of {len(starts)} starts found the place, {summary['wrong']} gave a wrong fix; "
        f"{took}{summary['frame_ms']['p50']:.0f} ms a frame, {summary['frame_ms']['p95']:.0f} at 95 %, "
        f"on {network.spec.label}"
    )
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
    write_json(args.json, summary | {"each": each})
    return 0


def _print_starts(starts: list[Start], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from geoloc_ros.core.localization.overlay import odds_text

    table = Table(title=title)
    for heading in ("start", "frames", "seconds", "error m", "odds, best place", "last reason"):
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


def _write(args: argparse.Namespace, runs: list[Run], raster: RasterMap) -> None:
    """The files that --json and --out ask for."""
    from geoloc_ros.core.evaluation.scores import summarize
    from geoloc_ros.core.reporting.report import write_report

    summaries = [summarize(run) for run in runs]
    write_json(args.json, {**summaries[0], "runs": summaries})
    if args.out is not None:
        write_report(args.out, runs, raster, f"Flight {args.flight.name}", runs[0].about["note"])


def summary_table(summaries: list[dict[str, Any]], flight: str) -> Table:
    """The figures of several runs side by side, for the terminal."""
    from rich.table import Table

    from geoloc_ros.core.reporting.figures import table_rows

    # A run a column: fits a narrow terminal whatever the number of figures.
    headings, rows = table_rows(summaries)
    table = Table(title=f"{flight}, {summaries[0]['mode']}, {summaries[0]['device']}")
    table.add_column(headings[0])
    for row in rows:
        table.add_column(row[0], justify="right")
    for place, heading in enumerate(headings[1:], start=1):
        table.add_row(heading, *(row[place] for row in rows))
    return table
