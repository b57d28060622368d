# SPDX-License-Identifier: Apache-2.0
"""`geoloc gallery`: vectors of a map's tiles, in which a drone that knows nothing finds its place."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_device, add_verbs

# Heavy imports wait until the command runs, so that the help page comes at once.


def add_parser(subparsers: Any) -> None:
    """Register the subcommand and its verbs."""
    add_verbs(
        subparsers, "gallery", _build_parser, _info_parser, _search_parser,
        summary="build and search the gallery of a map's tiles",
        description="A gallery holds a vector for each of many overlapping tiles of a map, so that a picture finds its "
        "place on the whole map (docs/gallery.md).",
    )  # fmt: skip


def _build_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "build",
        help="cut a map into tiles and embed them",
        description="Cut MAP into overlapping tiles, embed those with data and write MAP.gallery beside it. A build "
        "that was killed goes on where it was. Under torchrun, several processes or machines divide the work.",
    )
    add = parser.add_argument
    add("map", type=Path, metavar="MAP", help="raster that GDAL reads, or folder of XYZ tiles")
    _network_arguments(parser)
    add(
        "--tile-m", type=float, nargs="+", default=[120.0, 200.0], metavar="M",
        help="ground sides of the tiles, m; about what the camera sees (default: 120 200)",
    )  # fmt: skip
    add(
        "--stride-m", type=float, default=50.0, metavar="M",
        help="between the centres of neighbouring tiles, m (default: %(default)g)",
    )  # fmt: skip
    add("--out", type=Path, metavar="F", help="file to write (default: MAP.gallery)")
    parser.set_defaults(run=run_build)


def _info_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "info",
        help="tell what a gallery holds",
        description="Print what a gallery holds and what it was made from; with --map check that it is of that map.",
    )
    parser.add_argument("gallery", type=Path, metavar="FILE", help="gallery")
    parser.add_argument("--map", type=Path, metavar="MAP", help="refuse the gallery unless it is of this map")
    parser.set_defaults(run=run_info)


def _search_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "search",
        help="rank the tiles for a picture",
        description="Print the tiles that look most like the picture, the best first. The picture is taken as a view "
        "straight down with north up; of one that is not square the middle is used.",
    )
    add = parser.add_argument
    add("gallery", type=Path, metavar="FILE", help="gallery")
    add("image", type=Path, metavar="IMAGE", help="picture")
    _network_arguments(parser)
    add("--top", type=int, default=10, metavar="K", help="tiles to print (default: %(default)s)")
    add("--near", type=float, nargs=2, metavar=("LAT", "LON"), help="search about this place only, degrees")
    add("--radius-m", type=float, default=1000.0, metavar="M", help="of --near, m (default: %(default)g)")
    parser.set_defaults(run=run_search)


def _network_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        default="retrieval",
        metavar="W",
        help="retrieval weights, name or file (default: %(default)s)",
    )
    add_device(parser)


def run_build(args: argparse.Namespace) -> int:
    """Build, and print what it cost."""
    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_models.training.processes import join_processes
    from geoloc_ros.cli.progress import rated_progress
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.relocalization.gallery_build import GalleryBuild

    map_path = args.map.resolve()
    out = args.out or map_path.with_name(map_path.name + ".gallery")
    with join_processes(args.device) as processes, RasterMap(args.map) as source:
        retriever, _ = load_retriever(args.weights, str(processes.device))
        build = GalleryBuild(map_path.name, source, retriever, out, tuple(args.tile_m), args.stride_m)
        if not processes.is_first:
            build.run(processes)
            return 0
        name = "tiles" if processes.count == 1 else f"tiles of process 1 of {processes.count}"
        with rated_progress() as progress:
            task = progress.add_task(name, total=None)
            report = build.run(
                processes, lambda done, total: progress.update(task, completed=done, total=total)
            )
    assert report is not None  # the first process always has one
    info = report.info
    print(
        f"{out}: {report.tiles} tiles of {_metres(info.tile_m)}, {report.bytes / 1e6:.2f} MB; "
        f"left out: {info.without_data} without data, {info.of_one_colour} of one colour"
    )
    if report.done_now:
        per_km2 = len(info.tile_m) * (1000 / info.stride_m) ** 2
        pace = report.seconds / report.done_now / processes.count
        print(
            f"{report.done_now} tiles in {report.seconds:.1f} s by each of {processes.count} process(es) on "
            f"{processes.device.type}; a km² at a stride of {info.stride_m:g} m: {per_km2:.0f} tiles, "
            f"{per_km2 * report.bytes / report.tiles / 1e6:.3f} MB, {per_km2 * pace:.2f} s"
        )
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print the description."""
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.relocalization.gallery import Gallery

    if args.map is None:
        gallery = Gallery(args.gallery)
    else:
        with RasterMap(args.map) as source:
            gallery = Gallery(args.gallery, source=source)
    info = gallery.info
    south, west, north, east = gallery.bounds_deg
    sizes = ", ".join(f"{(gallery.size_m == size).sum()} of {size:g} m" for size in info.tile_m)
    rows = {
        "tiles": f"{len(gallery)}: {sizes}",
        "stride": f"{info.stride_m:g} m",
        "left out": f"{info.without_data} without data, {info.of_one_colour} of one colour",
        "centres": f"{south:.6f}, {west:.6f} to {north:.6f}, {east:.6f}",
        "vectors": f"{gallery.dim} numbers, float16",
        "search": gallery.method,
        "file": f"{gallery.path.stat().st_size / 1e6:.2f} MB",
        "weights": info.weights_id,
        "map": f"{info.map_name}, looks {info.map_id}" + (", the one given" if args.map else ""),
    }
    for name, value in rows.items():
        print(f"{name:9} {value}")
    return 0


def run_search(args: argparse.Namespace) -> int:
    """Print the ranking."""
    import sys

    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_ros.core.recording.images import decode_compressed
    from geoloc_ros.core.relocalization.gallery import Area, Gallery, is_flat

    try:
        image = decode_compressed(args.image.read_bytes())
    except OSError as error:
        raise GeolocError(f"cannot read {args.image}: {error.strerror}; give a picture") from error
    retriever, _ = load_retriever(args.weights, args.device)
    gallery = Gallery(args.gallery, retriever.weights_id)
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    area = None if args.near is None else Area(args.near[0], args.near[1], args.radius_m)
    matches = gallery.search(retriever.embed(square[None]), args.top, area)
    if matches.tile.shape[1] == 0:
        south, west, north, east = gallery.bounds_deg
        raise GeolocError(
            f"no tile lies within {args.radius_m:g} m of {args.near[0]}, {args.near[1]}: the gallery spans "
            f"{south:.6f}, {west:.6f} to {north:.6f}, {east:.6f}"
        )
    table = Table("rank", "score", "latitude", "longitude", "side m", box=SIMPLE)
    rows = zip(matches.score[0], matches.lat_deg[0], matches.lon_deg[0], matches.size_m[0], strict=True)
    for rank, (score, lat, lon, size) in enumerate(rows, 1):
        table.add_row(str(rank), f"{score:.4f}", f"{lat:.6f}", f"{lon:.6f}", f"{size:g}")
    Console().print(table)
    if is_flat(square):
        print(f"{args.image} is of one colour: this ranking says nothing about its place", file=sys.stderr)
    return 0


def _metres(sizes: tuple[float, ...]) -> str:
    return ", ".join(f"{size:g} m" for size in sizes)
