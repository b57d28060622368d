# SPDX-License-Identifier: Apache-2.0
"""Generate two maps of the same ground.

Generate two GeoTIFFs of the same ground as if taken on different dates by different sensors: map_date1.tif,
map_date2.tif and a preview. A seed always gives the same world.
"""

import argparse
from pathlib import Path

from rich.console import Console

from geoloc_ros.cli.shared.arguments import seed
from geoloc_ros.cli.shared.output import make_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="folder to write to")
    add("--size-m", type=float, default=1500.0, help="side of the square area")
    add("--gsd-m", type=float, default=0.3, help="metres per pixel, 0.1 to 1.0")
    add("--seed", type=seed, default=0, help="of everything")


def run(args: argparse.Namespace) -> int:
    """Write map_date1.tif, map_date2.tif and preview.png."""
    import cv2

    from geoloc_models.world.generate import generate_world

    console = Console()
    make_writable(args.out)
    with console.status(f"generating {args.size_m:g} m at {args.gsd_m:g} m a pixel"):
        world = generate_world(args.size_m, args.gsd_m, args.seed)
    with console.status("writing GeoTIFFs"):
        for date in (1, 2):
            world.write_geotiff(args.out / f"map_date{date}.tif", date)
        cv2.imwrite(str(args.out / "preview.png"), cv2.cvtColor(world.preview(), cv2.COLOR_RGB2BGR))
    size_px = world.date1.shape[0]
    print(
        f"{args.out}: two maps of {size_px}x{size_px} px, EPSG:{world.epsg}, "
        f"centre {world.lat_deg:.6f}, {world.lon_deg:.6f}, and preview.png"
    )
    return 0
