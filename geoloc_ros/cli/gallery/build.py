# SPDX-License-Identifier: Apache-2.0
"""Cut a map into tiles and embed them.

Cut MAP into overlapping tiles, embed those with data and write MAP.gallery beside it. A build that was killed goes on
where it was. Under torchrun, several processes or machines divide the work.
"""

import argparse
from pathlib import Path

from geoloc_ros.cli.shared.arguments import add_retriever
from geoloc_ros.cli.shared.output import rated_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("map", type=Path, metavar="MAP", help="raster that GDAL reads, or folder of XYZ tiles")
    add_retriever(parser)
    add(
        "--tile-m", type=float, nargs="+", default=[120.0, 200.0], metavar="M",
        help="ground sides of the tiles, m; about what the camera sees (default: 120 200)",
    )  # fmt: skip
    add(
        "--stride-m", type=float, default=50.0, metavar="M",
        help="between the centres of neighbouring tiles, m (default: %(default)g)",
    )  # fmt: skip
    add("--out", type=Path, metavar="F", help="file to write (default: MAP.gallery)")


def run(args: argparse.Namespace) -> int:
    """Build, and print what it cost."""
    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_models.training.processes import join_processes
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
            report = build.run(processes, lambda done, total: progress.update(task, completed=done, total=total))
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


def _metres(sizes: tuple[float, ...]) -> str:
    return ", ".join(f"{size:g} m" for size in sizes)
