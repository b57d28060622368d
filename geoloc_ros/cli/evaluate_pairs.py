# SPDX-License-Identifier: Apache-2.0
"""`geoloc evaluate-pairs`: accuracy on held-out picture pairs of two dates, beside the baselines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.metrics import MA_DISTANCES_M
from geoloc_ros.cli.arguments import make_writable, seed

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_models.evaluation import PairProtocol

# Heavy imports wait until the command runs, so that the help page comes at once.

_DESCRIPTION = """\
Score the network on pairs of pictures that training never saw: a simulated camera view of one date is
searched in a square map of the other, in both directions. DATA is the folder that holds pairs/levir,
pairs/srif and so on. The same views and maps go to every baseline; all take turns on each sample."""


def add_parser(subparsers: Any) -> None:
    """Register the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate-pairs",
        help="score the network and baselines on held-out picture pairs",
        description=_DESCRIPTION,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the picture pairs")
    parser.add_argument(
        "--set", dest="source", default="levir", metavar="NAME", help="which pairs (default: levir)"
    )
    parser.add_argument(
        "--crop-m", type=float, default=200.0, metavar="M", help="side of the search map, m (default: 200)"
    )
    parser.add_argument(
        "--view-m",
        type=float,
        default=70.0,
        metavar="M",
        help="nominal ground side of a view, m (default: 70)",
    )
    parser.add_argument(
        "--attitude-deg", type=float, default=6.0, metavar="D",
        help="largest error of roll, pitch and yaw, degrees (default: 6)",
    )  # fmt: skip
    parser.add_argument(
        "--height-percent", type=float, default=7.0, metavar="P",
        help="largest error of the height, percent (default: 7)",
    )  # fmt: skip
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="also run ncc or xfeat; may be repeated",
    )
    parser.add_argument("--weights", default="default", metavar="W", help="name or file (default: default)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="CPU threads; fixed, so that figures repeat (default: 2)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of all draws (default: 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="use this many samples only")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    from rich.console import Console
    from rich.progress import Progress

    from geoloc_models.engines import Engine
    from geoloc_models.engines.torch import TorchEngine
    from geoloc_models.evaluation import PairProtocol, evaluate_pairs, fix_threads
    from geoloc_ros.core.baselines import make_baseline

    fix_threads(args.threads)
    protocol = PairProtocol(
        source=args.source,
        crop_m=args.crop_m,
        view_m=args.view_m,
        attitude_deg=args.attitude_deg,
        height_percent=args.height_percent,
        seed=args.seed,
        limit=args.limit,
    )
    make_writable(file=args.json)
    network = TorchEngine(args.weights, device=args.device)
    engines: dict[str, Engine] = {"geoloc": network}
    engines |= {name: make_baseline(name, network) for name in dict.fromkeys(args.baseline)}
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{args.source} pairs", total=None)
        scores = evaluate_pairs(
            args.data,
            protocol,
            engines,
            native=frozenset(args.baseline),
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
    summaries = [score.summary() for score in scores]
    console.print(_table(summaries, protocol))
    if args.json is not None:
        figures = {**summaries[0], **vars(protocol), "methods": summaries}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    return 0


def _table(summaries: list[dict[str, Any]], protocol: PairProtocol) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{protocol.source}, held out: views of {protocol.view_m:g} m in maps of {protocol.crop_m:g} m "
        f"of another date, attitude ±{protocol.attitude_deg:g}°, height ±{protocol.height_percent:g} %"
    )
    table.add_column("")
    for summary in summaries:
        table.add_column(summary["name"], justify="right")
    rows = {
        "samples": [str(s["samples"]) for s in summaries],
        **{f"MA@{k}": [f"{s['ma'][str(k)]:.3f}" for s in summaries] for k in MA_DISTANCES_M},
        "median m": [f"{s['median_error_m']:.2f}" for s in summaries],
        "RDS": [f"{s['rds']:.3f}" for s in summaries],
        "2σ cover": [f"{s['coverage_2sigma']:.3f}" for s in summaries],
        "p50 ms": [f"{s['latency_ms']['p50']:.0f}" for s in summaries],
        "p95 ms": [f"{s['latency_ms']['p95']:.0f}" for s in summaries],
    }
    for heading, cells in rows.items():
        table.add_row(heading, *cells)
    return table
