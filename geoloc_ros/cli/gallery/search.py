# SPDX-License-Identifier: Apache-2.0
"""Rank the tiles for an image.

Print the tiles that look most like the image, the best first. The image is taken as a view straight down with
north up; of one that is not square the middle is used.
"""

import argparse
from pathlib import Path

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("gallery", type=Path, metavar="FILE", help="gallery")
    add("image", type=Path, metavar="IMAGE", help="image")
    add_retriever(parser)
    add("--top", type=int, default=10, metavar="K", help="tiles to print (default: %(default)s)")
    add("--near", type=float, nargs=2, metavar=("LAT", "LON"), help="search about this place only, degrees")
    add("--radius-m", type=float, default=1000.0, metavar="M", help="of --near, m (default: %(default)g)")


def run(args: argparse.Namespace) -> int:
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
        raise GeolocError(f"cannot read {args.image}: {error.strerror}; give an image") from error
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
