# SPDX-License-Identifier: Apache-2.0
"""Make a Gazebo world of a raster.

Make a Gazebo world (Harmonic or newer) whose ground is MAP in true size: world, models and bridge settings in DIR. Fly
in it with `ros2 launch geoloc_ros sim.launch.py world:=DIR map:=OTHER_MAP`. OTHER_MAP, which the localizer searches,
is to show the same ground at another date or from another source.
"""

import argparse
from pathlib import Path

from geoloc_ros.cli.shared.output import make_writable, rated_progress

SOURCE_TIMEOUT_S = 60.0  # of a map on a server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("map", type=Path, metavar="MAP", help="what the camera sees: raster with a CRS, or folder of XYZ tiles")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--name", default="geoloc", metavar="N", help="of the world and its file (default: %(default)s)")
    add(
        "--centre", type=float, nargs=2, metavar=("LAT", "LON"),
        help="where the vehicle stands, degrees (default: the map's middle)",
    )  # fmt: skip
    add("--size-m", type=float, metavar="M", help="side of a square ground, m (default: the whole map)")
    add("--gsd-m", type=float, metavar="M", help="ground's resolution, m a pixel (default: the map's own, if it fits)")
    add(
        "--altitude-m", type=float, default=0.0, metavar="M",
        help="of the ground above the ellipsoid, m (default: %(default)g)",
    )  # fmt: skip
    add(
        "--texture-mib", type=float, default=1024.0, metavar="MIB",
        help="graphics memory for the ground, MiB (default: %(default)g)",
    )  # fmt: skip
    add(
        "--tile-px", type=int, default=4096, metavar="PX",
        help="largest side of one texture, px (default: %(default)s; every card of today holds 8192, most 16384)",
    )  # fmt: skip
    add("--texture-format", choices=("jpeg", "png"), default="jpeg", help="of the textures (default: %(default)s)")
    add(
        "--image-px", type=int, nargs=2, default=(640, 480), metavar=("W", "H"),
        help="the camera's image, px (default: 640 480)",
    )  # fmt: skip
    add(
        "--hfov-deg", type=float, default=66.0, metavar="DEG",
        help="the camera's horizontal field of view, degrees (default: %(default)g)",
    )  # fmt: skip
    add("--rate-hz", type=float, default=10.0, metavar="HZ", help="images a second (default: %(default)g)")


def run(args: argparse.Namespace) -> int:
    """Write the world and say what it is."""
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.simulation.gazebo import Camera, blocks_of, plan_ground, write_world

    width_px, height_px = args.image_px
    camera = Camera(width_px, height_px, args.hfov_deg, args.rate_hz)
    with RasterMap(args.map, timeout_s=SOURCE_TIMEOUT_S) as source:
        plan = plan_ground(
            source, args.centre, args.size_m, args.gsd_m, args.tile_px, args.texture_mib, args.texture_format
        )
        make_writable(args.out)
        with rated_progress() as progress:
            task = progress.add_task("blocks of ground", total=blocks_of(plan))
            world = write_world(
                source, args.map.name, args.out, plan, camera, args.name, args.altitude_m,
                lambda: progress.advance(task),
            )  # fmt: skip
    west, south, east, north = plan.bounds_m
    print(
        f"{world.sdf}: ground {east - west:.1f} x {north - south:.1f} m at {plan.gsd_m:.3g} m a pixel in "
        f"{len(plan.tiles)} texture(s), centre {plan.lat_deg:.6f}, {plan.lon_deg:.6f}, "
        f"{100 * world.coverage:.1f} % of it on the map"
    )
    print(f"fly: ros2 launch geoloc_ros sim.launch.py world:={args.out} map:=MAP_OF_ANOTHER_DATE")
    return 0
