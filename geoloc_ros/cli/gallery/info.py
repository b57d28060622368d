# SPDX-License-Identifier: Apache-2.0
"""Print what a gallery holds.

Print what a gallery holds and what it was made from; with --map check that it is of that map.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gallery", type=Path, metavar="FILE", help="gallery")
    parser.add_argument("--map", type=Path, metavar="MAP", help="refuse the gallery unless it is of this map")


def run(args: argparse.Namespace) -> int:
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
