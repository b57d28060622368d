# SPDX-License-Identifier: Apache-2.0
"""Build a data set from your own map and photos.

Make one place of a data set in the UL14 layout: from geotagged photos (EXIF position; heading, gimbal and height above
take-off of DJI's XMP where present) or a flight folder, and one or several georeferenced rasters. Call it once for
each place, with the same --out; train and test need different places. Photos outside the map are listed and skipped.
The result is checked at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.dataset import check
from geoloc_ros.cli.shared.arguments import seed
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from geoloc_ros.core.recording.ul14_builder import Built, FlightShots, PhotoShots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from geoloc_models.datasets.ul14_writer import TRAIN_MAP_GSD_M

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


def run(args: argparse.Namespace) -> int:
    """Build the place, tell what was skipped and why, and check the whole data set; 1 if it has a fault."""
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.flight_folder import Flight
    from geoloc_ros.core.recording.ul14_builder import BuildSettings, FlightShots, PhotoShots, build

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
            track(build(shots, rasters, args.out, settings), "building", total=len(shots), console=Console(stderr=True))
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
    return check.run(argparse.Namespace(root=args.out))


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
        + (f", {100 * sum(coverages) / len(coverages):.0f} % of their ground in the raster" if coverages else "")
    )
