# SPDX-License-Identifier: Apache-2.0
"""Compare the reports of several runs.

Compare what `geoloc evaluate --out` or `geoloc demo` wrote for two runs or more: a table of all figures with their
differences from the first run, and with --out a page with errors, distributions and tracks over each other and the
frames that changed most (comparison.html, comparison.json). Of a report that holds several runs, the first counts.
--max-worse makes it a check: the exit status is 1 if a figure of any run is worse than the first run's by more than
that. docs/report.md defines the figures and lists the keys.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from rich.table import Table

    from geoloc_ros.core.reporting.comparison import LoadedReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("reports", type=Path, nargs="+", metavar="REPORT", help="folder or its report.json; the first is compared with")
    add("--out", type=Path, metavar="DIR", help="write comparison.html and comparison.json here")
    add(
        "--map", type=Path, metavar="M", help="raster to draw the tracks over; default: the first run's, if it is there"
    )
    add(
        "--max-worse", action="append", default=[], metavar="KEY=AMOUNT",
        help="such as ma.20=0.01 or median_error_m=0.1: fail if worse by more; may be repeated",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the table, write what was asked for; 1 if a figure is too much worse."""
    from rich.console import Console

    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.reporting.comparison import compare, parse_limits, read_reports, write_comparison

    if len(args.reports) < 2:
        raise GeolocError("one report has nothing to be compared with: give two or more")
    limits = parse_limits(args.max_worse)
    reports = read_reports(args.reports)
    make_writable(args.out)
    comparison = compare(reports, limits)
    console = Console()
    console.print(_table(reports))
    if args.out is not None:
        map_path = args.map or _map_of(reports[0])
        with RasterMap(map_path) if map_path else contextlib.nullcontext() as raster:
            write_comparison(args.out, comparison, raster)
        console.print(f"comparison: {args.out / 'comparison.html'}")
    for words in comparison.warnings:
        console.print(f"warning: {words}", style="yellow", markup=False, highlight=False)
    for words in comparison.exceeded:
        console.print(f"too much worse: {words}", style="red", markup=False, highlight=False)
    return 1 if comparison.exceeded else 0


def _map_of(first: LoadedReport) -> Path | None:
    """The raster that the first run searched, where it still is."""
    path = first.summary.get("map")
    return Path(path) if path and Path(path).exists() else None


def _table(reports: list[LoadedReport]) -> Table:
    """All figures, a run a column, with the differences from the first."""
    from rich.table import Table

    from geoloc_ros.core.reporting.comparison import delta
    from geoloc_ros.core.reporting.figures import GROUPS

    colours = {"better": "green", "worse": "red", "": "dim"}
    table = Table(title=f"against {reports[0].run.name}")
    table.add_column("figure")
    for each in reports:
        table.add_column(each.run.name, justify="right", overflow="fold")
    for group in GROUPS.values():
        for figure in group:
            cells = [figure.text(figure.of(reports[0].summary))]
            for other in reports[1:]:
                text, kind = delta(figure, reports[0], other)
                cells.append(f"{figure.text(figure.of(other.summary))} [{colours[kind]}]{text}[/]")
            table.add_row(figure.label + (f", {figure.unit}" if figure.unit else ""), *cells)
        table.add_section()
    return table
