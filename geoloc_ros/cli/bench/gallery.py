# SPDX-License-Identifier: Apache-2.0
"""Measure the search in galleries.

Print milliseconds of embedding a view, then of searching generated galleries whose vectors are distributed like those
of real tiles, recall of the first {TOP}, and MB: index in memory, and vectors in a file, which a search reads in
parts; beside NumPy's product with all vectors in float32. Up to {EXACT_TILES} tiles a gallery is searched exactly,
with --codes as a larger one is.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device
from geoloc_ros.cli.shared.output import make_writable

LEAST_RECALL = 0.95
TARGETS = {100_000: (60.0, None), 1_000_000: (100.0, 300.0)}
"""Tiles -> milliseconds of a search, without the embedding, and MB of index in memory, to stay under on two cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tiles", type=int, nargs="+", default=list(TARGETS), metavar="N",
        help="sizes of the galleries (default: 100000 1000000)",
    )  # fmt: skip
    add("--weights", default="retrieval", metavar="W", help="retrieval weights, name or file (default: %(default)s)")
    add_device(parser)
    add("--queries", type=int, default=50, metavar="Q", help="searches to measure (default: %(default)s)")
    add("--cores", type=int, default=2, metavar="C", help="CPU cores to use (default: %(default)s)")
    add("--codes", action="store_true", help="search small galleries by codes too")
    add("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import torch

    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_ros.cli.bench.gallery_vectors import TOP, embedding_ms, measure
    from geoloc_ros.cli.bench.measuring import keep_to_cores
    from geoloc_ros.core.relocalization.gallery_index import EXACT_TILES

    if min(args.tiles) < 100 or args.queries < 2 or args.cores < 1:
        raise GeolocError("give at least 100 tiles, 2 queries and 1 core")
    make_writable(file=args.json)
    keep_to_cores(args.cores)
    torch.set_num_threads(args.cores)
    console = Console()
    retriever, _ = load_retriever(args.weights, args.device)
    embedding = embedding_ms(retriever, args.queries)
    console.print(
        f"{retriever.weights_id}: {retriever.dim} numbers a vector; {args.queries} queries, {args.cores} cores; "
        f"embedding a view takes {embedding['p50']:.2f} ms p50, {embedding['p95']:.2f} ms p95",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("tiles", "search", "ms p50", "p95", f"recall@{TOP}", "index MB", "file MB", "build s"):
        table.add_column(column, no_wrap=True, justify="left" if column == "search" else "right")
    figures = []
    for tiles in args.tiles:
        with console.status(f"{tiles} tiles"), tempfile.TemporaryDirectory() as folder:
            rows = measure(tiles, retriever.dim, args.queries, args.codes or tiles > EXACT_TILES, Path(folder))
        figures += rows
        for row in rows:
            table.add_row(
                f"{tiles:,}",
                row["search"],
                f"{row['ms']['p50']:.2f}",
                f"{row['ms']['p95']:.2f}",
                f"{row['recall']:.3f}",
                f"{row['index_mb']:.1f}",
                f"{row['file_mb']:.1f}",
                f"{row['build_s']:.1f}",
            )
    console.print(table)
    for row in figures:
        if row["tiles"] in TARGETS and row["search"] != "NumPy":
            console.print(_verdict(row), highlight=False, soft_wrap=True)
    if args.json is not None:
        report = {"weights": retriever.weights_id, "cores": args.cores, "embedding_ms": embedding, "rows": figures}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _verdict(row: dict[str, Any]) -> str:
    """A sentence on whether a gallery's figures are within the targets."""
    limit_ms, limit_mb = TARGETS[row["tiles"]]
    within = row["ms"]["p50"] < limit_ms and row["recall"] >= LEAST_RECALL
    target = f"{limit_ms:.0f} ms p50 and a recall of {LEAST_RECALL}"
    if limit_mb is not None:
        within &= row["index_mb"] < limit_mb
        target += f", {limit_mb:.0f} MB of index"
    return f"{row['tiles']:,} tiles: {'within' if within else 'beyond'} the targets of {target}"
