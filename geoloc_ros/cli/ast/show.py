# SPDX-License-Identifier: Apache-2.0
"""Draw attention, segments and matches over images.

Draw, for each image, what the class token attends to and the segments that follow from it (the paper's figure 6;
spread: mean squared deviation of the attention logits within segments), and with --gallery the most similar images
of a folder (figures 7 and 8): framed green if they lie in a folder of the query's folder's name, else red; without
frame if no folder has that name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.ast.retrievers import add_weights, open_retrievers
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from geoloc_models.ast.retriever import Retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images to look at")
    add_weights(parser)
    parser.add_argument("--gallery", type=Path, metavar="FOLDER", help="rank the images below this folder")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="matches to show (default: 5)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/ast.png"), metavar="F", help="image to write (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    import cv2

    from geoloc_models.ast.drawing import image_row, sheet
    from geoloc_models.datasets.image_pairs import read_rgb

    if args.top < 1:
        raise GeolocError(f"--top is {args.top}: give at least 1")
    retrievers = list(open_retrievers(args).values())
    make_writable(file=args.out)
    images = [read_rgb(path) for path in args.images]
    matches = _matches(args, retrievers[0], images) if args.gallery is not None else [[] for _ in images]
    rows = [
        image_row(image, path.name, retrievers, found)
        for image, path, found in zip(images, args.images, matches, strict=True)
    ]
    cv2.imwrite(str(args.out), sheet(rows)[..., ::-1])
    print(f"wrote {args.out}")
    return 0


def _matches(args: argparse.Namespace, retriever: Retriever, images: list[Any]) -> list[list[Any]]:
    """For each image the cells of its most similar ones below --gallery, by the first network."""
    import numpy as np
    from rich.progress import track

    from geoloc_models.ast.drawing import RIGHT_RGB, WRONG_RGB, Cell
    from geoloc_models.datasets.faults import IMAGE_SUFFIXES
    from geoloc_models.datasets.image_pairs import read_rgb

    paths = sorted(p for p in args.gallery.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise GeolocError(f"no image lies below {args.gallery}: give a folder with {', '.join(IMAGE_SUFFIXES)}")
    gallery = retriever.embed_stream(read_rgb(path) for path in track(paths, "gallery", transient=True))
    rows = []
    for image, query_path in zip(images, args.images, strict=True):
        similarity = (retriever.embed(image[None]) @ gallery.T)[0]
        place = query_path.resolve().parent.name
        known = any(path.parent.name == place for path in paths)
        row = []
        for index in np.argsort(-similarity, kind="stable")[: args.top]:
            path = paths[index]
            frame = (RIGHT_RGB if path.parent.name == place else WRONG_RGB) if known else None
            row.append(Cell(read_rgb(path), f"{similarity[index]:.3f} {path.parent.name}/{path.name}", frame))
        rows.append(row)
    return rows
