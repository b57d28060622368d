# SPDX-License-Identifier: Apache-2.0
"""Score single views searched in maps, with baselines.

Score the network on single views and maps that training never saw. A set is one of levir, srif and dsifn (held-out
images of two dates under DATA/pairs: a simulated camera view of one date is searched in a square map of the other,
in both directions); a folder with pre.tif and post.tif (the same, at random places of two rasters); a flight folder
(real frames, rectified); or a UL14 folder (its test split). Folders are looked for under DATA, DATA/crossdate and
DATA/flights. The map's centre is off by up to 0.425 of its side. The same views and maps go to every engine; all take
turns on each sample.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device, seed
from geoloc_ros.cli.shared.output import make_writable, rated_progress

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_models.engines import Engine
    from geoloc_models.evaluation.view_sets import PairSet
    from geoloc_models.evaluation.views import PairScores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder with pairs/, crossdate/ and flights/")
    add(
        "--set", dest="sets", action="append", default=[], metavar="NAME",
        help="set to score; may be repeated (default: levir)",
    )  # fmt: skip
    add(
        "--crop-m", type=float, action="append", default=[], metavar="M",
        help="side of the search map, m; several are pooled (default: levir 200, srif 80, other sets 300)",
    )  # fmt: skip
    add(
        "--view-m", type=float, metavar="M",
        help="nominal ground side of a view, m (default: levir 70, srif 28, others 90; a flight's own)",
    )  # fmt: skip
    add(
        "--attitude-deg", type=float, default=6.0, metavar="D",
        help="largest error of roll, pitch and yaw of simulated views, degrees (default: 6)",
    )  # fmt: skip
    add(
        "--height-percent", type=float, default=7.0, metavar="P",
        help="largest error of the height of simulated views, percent (default: 7)",
    )  # fmt: skip
    add(
        "--part", choices=["all", "calibration", "judging"], default="all",
        help="of the held-out images: all, those that calibration may see, or only the others (default: all)",
    )  # fmt: skip
    add(
        "--stress", action="append", default=[], metavar="NAME",
        help="also the same samples with heading, heading-10, height-20, height-30, both (10° and 20 %%), night, "
        "occlusion or jpeg gone wrong, or all; may be repeated",
    )  # fmt: skip
    add(
        "--baseline", action="append", default=[], metavar="NAME",
        help="also run ncc, ncc-pose, sift, xfeat, xfeat-similarity or aliked-lightglue; may be repeated",
    )  # fmt: skip
    add(
        "--weights", action="append", default=[], metavar="W",
        help="name or file; may be repeated to compare (default: default)",
    )  # fmt: skip
    add(
        "--engine", action="append", default=[], metavar="E",
        help="also the first weights by this engine (docs/engines.md); may be repeated",
    )  # fmt: skip
    add("--heading-search", action="store_true", help="also the first network trying all headings")
    add_device(parser)
    add(
        "--threads", type=int, default=2, metavar="N",
        help="CPU threads; fixed, so that figures repeat (default: 2)",
    )  # fmt: skip
    add("--seed", type=seed, default=0, metavar="N", help="seed of all draws (default: 0)")
    add("--limit", type=int, metavar="N", help="use this many samples of each set only")
    add("--json", type=Path, metavar="F", help="write all figures to this file")
    add("--csv", type=Path, metavar="F", help="write one row for each sample and engine to this file")
    add("--out", type=Path, metavar="DIR", help="write plots here")


def run(args: argparse.Namespace) -> int:
    """Evaluate set by set, print the tables, write what was asked for."""
    from rich.console import Console

    from geoloc_models.devices import fix_threads
    from geoloc_models.evaluation.views import evaluate_set, write_csv

    fix_threads(args.threads)
    sets = _open_sets(args)
    make_writable(args.out, args.json)
    make_writable(file=args.csv)
    engines = _engines(args)
    scored: list[tuple[PairSet, str, list[PairScores]]] = []
    with rated_progress() as progress:
        task = progress.add_task("", total=sum(len(one) for one, _ in sets))
        for one, stress in sets:
            progress.update(task, description=one.name if stress == "none" else f"{one.name}, {stress}")
            advance = functools.partial(progress.advance, task)
            scored.append((one, stress, evaluate_set(one, engines, frozenset(args.baseline), advance)))
    console = Console()
    for name in dict.fromkeys(one.name for one, _, _ in scored):
        own = [(one, stress, scores) for one, stress, scores in scored if one.name == name]
        console.print(summary_table(*own[0]))
        by_stress = {stress: scores for _, stress, scores in own}
        if len(own) > 1:
            for table in stress_tables(name, by_stress):
                console.print(table)
        if args.out is not None:
            from geoloc_ros.core.reporting.view_plots import write_plots

            write_plots(args.out, name, by_stress)
    if args.csv is not None:
        write_csv(args.csv, [(one.name, stress, score) for one, stress, scores in scored for score in scores])
    if args.json is not None:
        args.json.write_text(json.dumps(_figures(args, scored), indent=2, allow_nan=False) + "\n")
    return 0


def _open_sets(args: argparse.Namespace) -> list[tuple[PairSet, str]]:
    """Each set under each stress, "none" first."""
    from geoloc_models.evaluation.stress import choose_stresses
    from geoloc_models.evaluation.view_sets import PairProtocol
    from geoloc_ros.core.evaluation.recorded_view_sets import open_set

    stresses = choose_stresses(args.stress)
    return [
        (
            open_set(
                args.data,
                name,
                PairProtocol(
                    attitude_deg=args.attitude_deg,
                    height_percent=args.height_percent,
                    seed=args.seed,
                    limit=args.limit,
                    part=args.part,
                    stress=stress,
                ),
                args.crop_m,
                args.view_m,
            ),
            stress,
        )
        for name in dict.fromkeys(args.sets or ["levir"])
        for stress in stresses
    ]


def _engines(args: argparse.Namespace) -> dict[str, Engine]:
    """The networks, "geoloc" where it is only one, the first one by other engines, then the baselines, which are fed
    like the first network.
    """
    from geoloc_models.engines.choice import open_engine
    from geoloc_models.engines.placer import placing
    from geoloc_models.engines.pose_search import PoseSearch
    from geoloc_models.engines.published_engine import open_network
    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_ros.core.evaluation.baselines.ncc import make_baseline

    weights = list(dict.fromkeys(args.weights or ["default"]))
    networks: dict[str, Engine] = {
        ("geoloc" if len(weights) == 1 else Path(name).stem): open_network(name, args.device) for name in weights
    }
    if len(networks) < len(weights):
        raise GeolocError(f"two of the weights {', '.join(weights)} have one name; rename one of the files")
    name, first = next(iter(networks.items()))
    engines = dict(networks)
    if args.heading_search:
        if not isinstance(first, TorchEngine):
            raise GeolocError(
                f"--heading-search adds up posteriors, and {first.spec.weights_id} gives none; leave it out"
            )
        engines[f"{name}, any heading"] = PoseSearch.all_headings(first)
    for engine in dict.fromkeys(args.engine):
        engines[engine] = open_engine(weights[0], args.device, args.threads, engine)
    engines = {name: placing(engine) for name, engine in engines.items()}
    return engines | {name: make_baseline(name, first.spec) for name in dict.fromkeys(args.baseline)}


def _figures(args: argparse.Namespace, scored: list[tuple[PairSet, str, list[PairScores]]]) -> dict[str, Any]:
    """What --json holds: every set with its methods; the first method of the first set also at the top."""
    sets: list[dict[str, Any]] = [
        {"set": one.name, "about": one.about, "stress": stress, "methods": [s.summary() for s in scores]}
        for one, stress, scores in scored
    ]
    return {**sets[0]["methods"][0], "seed": args.seed, "limit": args.limit, "sets": sets}


def summary_table(one: PairSet, _stress: str, scores: list[PairScores]) -> Table:
    """The figures of one set, an engine a column."""
    from rich.table import Table

    from geoloc_models.metrics import MA_ALL_DISTANCES_M

    summaries = [score.summary() for score in scores]
    table = Table(title=f"{one.name}: {one.about}")
    table.add_column("")
    for summary in summaries:
        table.add_column(summary["name"], justify="right")
    low_high = [summary["coverage_2sigma_95"] for summary in summaries]
    rows = {
        "samples": [str(s["samples"]) for s in summaries],
        **({"not drawn": [str(s["skipped"]) for s in summaries]} if summaries[0]["skipped"] else {}),
        **{f"MA@{k}": [f"{s['ma'][str(k)]:.3f}" for s in summaries] for k in MA_ALL_DISTANCES_M},
        "median m": [f"{s['median_error_m']:.2f}" for s in summaries],
        "RDS": [f"{s['rds']:.3f}" for s in summaries],
        "RDS, exact label": [f"{s['rds_exact']:.3f}" for s in summaries],
        "SDM@1": [f"{s['sdm']:.3f}" for s in summaries],
        "truth within 2σ": [f"{s['coverage_2sigma']:.3f}" for s in summaries],
        "  95 % interval": [f"{low:.2f}–{high:.2f}" for low, high in low_high],
        "median stated σ m": [f"{s['sigma_median_m']:.2f}" for s in summaries],
        **_pose_rows(summaries),
        "calibration error": [f"{s['calibration_error']:.3f}" for s in summaries],
        "p50 ms": [f"{s['latency_ms']['p50']:.0f}" for s in summaries],
        "p95 ms": [f"{s['latency_ms']['p95']:.0f}" for s in summaries],
    }
    for heading, cells in rows.items():
        table.add_row(heading, *cells)
    return table


def _pose_rows(summaries: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Heading and scale, where a method finds them, and the fixes that pass the gates of a start."""
    aligned = {
        "median heading error °": "heading_error_median_deg",
        "median scale error %": "scale_error_median_percent",
    }
    nees = [s["nees_per_dof_valid"] for s in summaries]
    return {
        **({row: [_text(s[key], 2) for s in summaries] for row, key in aligned.items()} if _aligns(summaries) else {}),
        "valid": [f"{s['valid']:.3f}" for s in summaries],
        "false fixes": [str(s["false_fixes"]) for s in summaries],
        "NEES per axis of valid, mean": [_text(each["mean"], 2) for each in nees],
        "  median": [_text(each["median"], 2) for each in nees],
        "valid within 2σ": [_text(s["coverage_2sigma_valid"], 3) for s in summaries],
    }


def _aligns(summaries: list[dict[str, Any]]) -> bool:
    return any(summary["heading_error_median_deg"] is not None for summary in summaries)


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def stress_tables(name: str, by_stress: dict[str, list[PairScores]]) -> list[Table]:
    """What each stress leaves of each engine's accuracy: MA@5, MA@20 and the median error; if any engine aligns, also
    the errors of heading and scale and the false fixes.
    """
    from rich.table import Table

    from geoloc_models.evaluation.stress import STRESSES

    summaries = {stress: [score.summary() for score in scores] for stress, scores in by_stress.items()}

    def accuracy(s: dict[str, Any]) -> str:
        return f"{s['ma']['5']:.3f} / {s['ma']['20']:.3f} / {_text(s['median_error_m'], 2)}"

    def pose(s: dict[str, Any]) -> str:
        errors = f"{_text(s['heading_error_median_deg'], 2)} / {_text(s['scale_error_median_percent'], 2)}"
        return f"{errors} / {s['false_fixes']}"

    kinds = {"MA@5 / MA@20 / median m, same samples": accuracy}
    if any(_aligns(each) for each in summaries.values()):
        kinds["median heading error ° / median scale error % / false fixes"] = pose
    tables = []
    for title, cell in kinds.items():
        table = Table(title=f"{name} under stress: {title}")
        table.add_column("")
        for score in by_stress["none"]:
            table.add_column(score.name, justify="right")
        for stress, each in summaries.items():
            table.add_row(STRESSES[stress].title, *(cell(summary) for summary in each))
        tables.append(table)
    return tables
