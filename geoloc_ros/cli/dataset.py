# SPDX-License-Identifier: Apache-2.0
"""`geoloc dataset`: build, check and synthesize data sets in the UL14 layout."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from geoloc_models.datasets.checks import Report, check_dataset
from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14
from geoloc_models.datasets.ul14_writer import TRAIN_MAP_GSD_M
from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_verbs, make_writable, seed
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.ul14_builder import BuildSettings, Built, FlightShots, PhotoShots, build


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand with its verbs."""
    add_verbs(
        subparsers, "dataset", _add_build, _add_check, _add_synthesize,
        summary="build, check or synthesize a data set in the layout of the paper",
        description="Data sets in the UL14 layout: made of your own map and photos, checked, or generated.",
    )  # fmt: skip


def _add_build(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "build",
        help="make a data set of your own map and photos",
        description="Make one place of a data set in the UL14 layout: from geotagged photos (EXIF position; heading,"
        " gimbal and height above take-off of DJI's XMP where present) or a flight folder, and one or several"
        " georeferenced rasters. Call it once for each place, with the same --out; train and test need different"
        " places. Photos outside the map are listed and skipped. The result is checked at the end.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", metavar="DIR", type=Path, help="folder of geotagged photos")
    source.add_argument("--flight", metavar="DIR", type=Path, help="flight folder")
    add(
        "--map", metavar="RASTER", type=Path, nargs="+",
        help="georeferenced raster; several, of different dates, give every photo several maps."
        " A flight's own map if not given",
    )  # fmt: skip
    add("--out", metavar="DIR", type=Path, required=True, help="root of the data set")
    add("--place", metavar="NAME", required=True, help="name of the place, new in the data set")
    add("--split", choices=("train", "test"), required=True, help="what the place is for")
    add("--height-m", type=float, help="height above ground of all photos; what their XMP says if not given")
    add("--every", metavar="N", type=int, default=1, help="take every N-th frame of a flight")
    add("--gsd-m", type=float, default=TRAIN_MAP_GSD_M, help="metres a pixel of train maps")
    add("--seed", type=seed, default=0, help="of where the target lies on test maps")
    parser.set_defaults(run=run_build)


def _add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "check",
        help="say what is wrong with a UL14 or DenseUAV folder",
        description="Read every file of a data set in the UL14 or DenseUAV layout and say, one sentence each, what"
        " is wrong: missing or damaged files, labels that disagree with coordinates, places that train and test"
        " share. Exit status 1 when there is a fault.",
    )
    parser.add_argument(
        "root", metavar="PATH", type=Path, help="root of the data set, the folder above train"
    )
    parser.set_defaults(run=run_check)


def _add_synthesize(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "synthesize",
        help="generate a small data set to try things out",
        description="Generate a small data set in the exact UL14 layout: each place is a generated world, each"
        " view a turned and colour-shifted piece of its map. A seed always gives the same data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    defaults = SyntheticSettings()
    add("--out", metavar="DIR", type=Path, required=True, help="new or empty folder to write to")
    add("--train-places", metavar="N", type=int, default=defaults.train_places, help="places to train on")
    add("--test-places", metavar="N", type=int, default=defaults.test_places, help="places to test on")
    add("--views", metavar="N", type=int, default=defaults.views, help="camera views of each place")
    add("--seed", type=seed, default=defaults.seed, help="of everything")
    parser.set_defaults(run=run_synthesize)


def run_build(args: argparse.Namespace) -> int:
    """Build the place, tell what was skipped and why, and check the whole data set; 1 if it has a fault."""
    settings = BuildSettings(args.place, args.split, args.gsd_m, args.seed)
    if args.flight:
        if args.height_m is not None:
            raise GeolocError("--height-m is for photos; a flight has its own heights")
        flight = Flight.open(args.flight)
        shots: FlightShots | PhotoShots = FlightShots(flight, args.every)
        paths = args.map or [flight.map_path]
    else:
        if args.every != 1:
            raise GeolocError("--every is for flights; put the photos to take into a folder of their own")
        if not args.map:
            raise GeolocError("photos have no map of their own; give a georeferenced raster with --map")
        shots = PhotoShots(args.photos, args.height_m)
        paths = args.map
    rasters = [RasterMap(path) for path in paths]
    try:
        make_writable(args.out)
        done = list(
            track(
                build(shots, rasters, args.out, settings),
                "building",
                total=len(shots),
                console=Console(stderr=True),
            )
        )
    finally:
        for raster in rasters:
            raster.close()
    _print_built(done, args)
    if isinstance(shots, PhotoShots) and shots.without_heading:
        print(
            f"warning: {shots.without_heading} photo(s) name no heading (GimbalYawDegree, GPSImgDirection); "
            "the top is taken as north"
        )
    if all(built.skipped for built in done):
        raise GeolocError(f"nothing of {args.photos or args.flight} could be used; see the reasons above")
    return run_check(argparse.Namespace(root=args.out))


def _print_built(done: list[Built], args: argparse.Namespace) -> None:
    """Every skipped shot with its reason, then the counts."""
    for built in done:
        if built.skipped:
            print(f"skipped: {built.name}: {built.skipped}")
    coverages = [coverage for built in done for coverage in built.coverages]
    used = sum(not built.skipped for built in done)
    print(
        f"{args.out}: place {args.place} for {args.split}: used {used} of {len(done)} views, skipped "
        f"{len(done) - used}, wrote {len(coverages)} map(s)"
        + (
            f", {100 * sum(coverages) / len(coverages):.0f} % of their ground in the raster"
            if coverages
            else ""
        )
    )


def run_check(args: argparse.Namespace) -> int:
    """Print the report; 1 if there is a fault."""
    report = check_dataset(args.root, _reading)
    print_report(args.root, report)
    return 1 if report.faults else 0


def run_synthesize(args: argparse.Namespace) -> int:
    """Write the data set."""
    settings = SyntheticSettings(args.train_places, args.test_places, args.views, seed=args.seed)
    folders = write_synthetic_ul14(args.out, settings)
    for _ in track(folders, "generating", settings.sequences, console=Console(stderr=True)):
        pass
    print(
        f"{args.out}: {settings.train_places * settings.views} train items, "
        f"{settings.test_places * settings.views} test sequences; try geoloc dataset check {args.out}"
    )
    return 0


def print_report(root: Path, report: Report) -> None:
    """Facts, warnings and faults, a line each, paths relative to the root."""
    print(f"{root}: {report.layout} layout")
    for fact in report.facts:
        print(f"  {fact}")
    for warning in report.warnings:
        print(f"warning: {warning}")
    for fault in report.faults:
        path = fault.path.relative_to(root) if fault.path.is_relative_to(root) else fault.path
        print(f"fault: {path}: {fault.text}")
    count = len(report.faults)
    print("no faults" if not count else "1 fault" if count == 1 else f"{count} faults")


def _reading(pictures: Sequence[Path]) -> Iterable[Path]:
    return track(pictures, "reading pictures", console=Console(stderr=True))
