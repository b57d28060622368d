# SPDX-License-Identifier: Apache-2.0
"""Score retrieval networks: R@K, R@1 %, AP.

Score trained weights, and DINOv2 without training beside them, on the same queries and gallery: both tasks of
University-1652 and DenseUAV, or views of held-out images among tiles of their other date.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.ast.retrievers import add_data, add_weights, open_retrievers
from geoloc_ros.cli.shared.arguments import seed
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_models.datasets.retrieval_sets import RetrievalTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_weights(parser)
    parser.add_argument(
        "--task",
        action="append",
        choices=("drone-to-satellite", "satellite-to-drone"),
        help="one task of the two (default: both); not for pairs",
    )
    parser.add_argument(
        "--by",
        action="append",
        choices=("distance", "angle"),
        default=[],
        help="also by the drone's distance (table 7) or angle (table 8); University-1652; may be repeated",
    )
    parser.add_argument(
        "--tile-m", type=float, default=80.0, metavar="M", help="ground side of pairs' tiles, m (default: 80)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of pairs' views (default: 0)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use about this many queries, or images of the pairs, only"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the JSON."""
    from rich.console import Console
    from rich.progress import Progress

    from geoloc_models.evaluation.retrieval import evaluate_retrieval

    retrievers = open_retrievers(args)
    if args.by and args.kind != "university1652":
        raise GeolocError(f"--by {args.by[0]} needs --set university1652: {args.kind} does not say it")
    if args.limit is not None and args.limit < 1:
        raise GeolocError(f"a limit of {args.limit} leaves nothing to measure; give at least 1")
    make_writable(file=args.json)
    console = Console()
    figures: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, retriever in retrievers.items():
            for task in _tasks(args, retriever.input_px):
                total = task.queries.count + task.gallery.count
                bar = progress.add_task(f"{name}, {task.name}", total=total)
                ranked = evaluate_retrieval(retriever, task, functools.partial(progress.advance, bar))
                of_task = figures.setdefault(task.name, {}).setdefault(name, {"all": ranked.summary()})
                for kind in args.by:
                    for subset, mask in task.subsets.get(kind, {}).items():
                        of_task[subset] = ranked.of(mask).summary()
    for task_name, by_retriever in figures.items():
        console.print(_table(task_name, by_retriever))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    return 0


def _tasks(args: argparse.Namespace, side_px: int) -> list[RetrievalTask]:
    from geoloc_models.datasets.retrieval_sets import TASKS, cross_date_task, labelled_task

    if args.kind == "pairs":
        if args.tile_m <= 0:
            raise GeolocError(f"tiles of {args.tile_m:g} m show nothing: give a positive --tile-m")
        return [cross_date_task(args.data, side_px, args.tile_m, seed=args.seed, limit=args.limit)]
    return [labelled_task(args.kind, args.data, task, side_px, args.limit) for task in args.task or TASKS]


def _table(title: str, by_retriever: dict[str, dict[str, dict[str, float]]]) -> Table:
    from rich.table import Table

    first = next(iter(by_retriever.values()))["all"]
    table = Table(title=f"{title}: gallery of {first['gallery']}")
    table.add_column("")
    columns = [name for name in first if name != "gallery"]
    for column in columns:
        table.add_column(column, justify="right")
    for name, subsets in by_retriever.items():
        for subset, figures in subsets.items():
            label = name if subset == "all" else f"  {subset}"
            cells = [f"{figures[c]:.0f}" if c == "queries" else f"{100 * figures[c]:.2f}" for c in columns]
            table.add_row(label, *cells)
    return table
