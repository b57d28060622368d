# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench-gallery`: milliseconds, recall and memory of a gallery's search, beside a product over all of it."""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import make_writable
from geoloc_ros.cli.measuring import keep_to_cores, percentiles
from geoloc_ros.core.gallery_index import EXACT_TILES, CodeIndex, build_codes, search_exactly

TOP = 10
_SLOPE = 1.4
"""The variances of DINOv2's principal components over 432 pieces of the Estonian tiles fall like rank^-1.4."""
_PER_PLACE = 50  # vectors that are much alike
_CHUNK = 50_000


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench-gallery",
        help="measure the search in galleries",
        description="Search generated galleries, clustered like a map's overlapping tiles, and print milliseconds a "
        f"query, recall of the first {TOP} and bytes of codes, beside NumPy's product with all vectors in float32. "
        f"Up to {EXACT_TILES} tiles a gallery is searched exactly, with --codes as a larger one is.",
    )
    add = parser.add_argument
    add(
        "--tiles", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N",
        help="sizes of the galleries (default: 100000 1000000)",
    )  # fmt: skip
    add("--dim", type=int, default=512, metavar="D", help="numbers in a vector (default: %(default)s)")
    add("--queries", type=int, default=50, metavar="Q", help="searches to measure (default: %(default)s)")
    add("--cores", type=int, default=2, metavar="C", help="CPU cores to use (default: %(default)s)")
    add("--codes", action="store_true", help="search small galleries by codes too")
    add("--json", type=Path, metavar="F", help="write the figures to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if min(args.tiles) < 100 or args.dim < 16 or args.queries < 2 or args.cores < 1:
        raise GeolocError("give at least 100 tiles, 16 numbers a vector, 2 queries and 1 core")
    make_writable(file=args.json)
    keep_to_cores(args.cores)
    torch.set_num_threads(args.cores)
    console = Console()
    table = Table("tiles", "search", "ms p50", "ms p95", f"recall@{TOP}", "codes MB", "build s", box=SIMPLE)
    figures = []
    for tiles in args.tiles:
        with console.status(f"{tiles} tiles"), tempfile.TemporaryDirectory() as folder:
            rows = measure(tiles, args.dim, args.queries, args.codes or tiles > EXACT_TILES, Path(folder))
        figures += rows
        for row in rows:
            table.add_row(
                f"{tiles:,}",
                row["search"],
                f"{row['ms']['p50']:.2f}",
                f"{row['ms']['p95']:.2f}",
                f"{row['recall']:.3f}",
                f"{row['codes_bytes'] / 1e6:.1f}",
                f"{row['build_s']:.1f}",
            )
    console.print(f"{args.dim} numbers a vector, {args.queries} queries, {args.cores} cores", highlight=False)
    console.print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(tiles: int, dim: int, queries: int, codes: bool, folder: Path) -> list[dict[str, Any]]:
    """A row for the gallery's search, one for NumPy's product: name, ms, recall, bytes of codes, seconds to build."""
    vectors, asked = _generate(tiles, dim, queries, folder / "vectors.raw")
    build_s, code_bytes = 0.0, 0
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    if codes:
        start = time.perf_counter()
        stored = build_codes(vectors)
        build_s, code_bytes = time.perf_counter() - start, stored.nbytes
        search = CodeIndex(vectors, stored).search
        del stored
    else:
        search = functools.partial(search_exactly, vectors)
    search(asked[:1], TOP)  # the first one loads libraries
    ours, our_ms = _timed(lambda query: search(query, TOP)[0][0], asked)
    whole = vectors.astype(np.float32)
    theirs, their_ms = _timed(lambda query: _brute_force(whole, query[0]), asked)
    recall = float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(ours, theirs, strict=True)]))
    name = "by codes" if codes else "exact"
    return [
        {"tiles": tiles, "search": name, "ms": our_ms, "recall": recall, "codes_bytes": code_bytes, "build_s": build_s},
        {"tiles": tiles, "search": "NumPy", "ms": their_ms, "recall": 1.0, "codes_bytes": 0, "build_s": 0.0},
    ]  # fmt: skip


def _timed(
    search: Callable[[np.ndarray], np.ndarray], asked: np.ndarray
) -> tuple[list[np.ndarray], dict[str, float]]:
    found, took = [], []
    for query in asked:
        start = time.perf_counter()
        found.append(search(query[None]))
        took.append(1e3 * (time.perf_counter() - start))
    return found, percentiles(took)


def _brute_force(whole: np.ndarray, query: np.ndarray) -> np.ndarray:
    scores = whole @ query
    best = np.argpartition(-scores, TOP)[:TOP]
    return best[np.argsort(-scores[best])]


def _generate(tiles: int, dim: int, queries: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (tiles, dim) float16 in a file, as a gallery's are, and queries (queries, dim) float32 like some."""
    rng = np.random.default_rng(0)
    spread = (np.arange(1, dim + 1) ** (-_SLOPE / 2)).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        return rng.standard_normal((count, dim), np.float32) * spread

    places = draw(max(1, tiles // _PER_PLACE))
    vectors = np.memmap(path, np.float16, "w+", shape=(tiles, dim))
    for start in range(0, tiles, _CHUNK):
        count = min(_CHUNK, tiles - start)
        vectors[start : start + count] = _unit(
            places[rng.integers(0, len(places), count)] + 0.6 * draw(count)
        )
    like = vectors[rng.integers(0, tiles, queries)].astype(np.float32)
    return vectors, _unit(like + 0.3 * _unit(draw(queries)))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
