# SPDX-License-Identifier: Apache-2.0
"""Measure the drift of visual odometry.

Follow the ground through the images of flights or bags, without any map, and print the error at the end of stretches of
100 m and of the whole flight, in percent of the distance flown, beside ORB features with RANSAC on the same views and
constant velocity. Attitude and height are those of the recording.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_json
from geoloc_ros.cli.shared.output import make_writable, plain_table, print_line, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("flights", type=Path, nargs="+", metavar="FLIGHT_OR_BAG", help="flight folder, or rosbag2")
    add("--rate-hz", type=float, nargs="+", default=[30.0], metavar="R",
        help="images a second, at most; one run for each (default: 30)")  # fmt: skip
    add("--attitude-error-deg", type=float, nargs="+", default=[0.0], metavar="D",
        help="tilt the reported camera constantly; one run for each (default: 0)")  # fmt: skip
    add("--cores", type=int, default=1, metavar="C", help="CPU cores to use (default: %(default)s)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from geoloc_ros.cli.bench.measuring import keep_to_cores
    from geoloc_ros.cli.shared.recordings import open_reported, require_truth

    if args.cores < 1 or not all(rate > 0 for rate in args.rate_hz):
        raise GeolocError("give a positive rate and at least 1 core")
    if not all(abs(error) <= 45 for error in args.attitude_error_deg):
        raise GeolocError("an attitude error must be 45 degrees at most")
    make_writable(file=args.json)
    keep_to_cores(args.cores)
    rows: list[dict[str, Any]] = []
    for path in args.flights:
        recording = open_reported(path)
        require_truth(recording)
        for rate_hz in args.rate_hz:
            for error_deg in args.attitude_error_deg:
                rows += _rows(path.name, recording, rate_hz, error_deg)
    _print(rows, Console())
    write_json(args.json, {"cores": args.cores, "rows": rows})
    return 0


def _rows(name: str, recording: Any, rate_hz: float, error_deg: float) -> list[dict[str, Any]]:
    """One row for each odometry."""
    from geoloc_ros.core.evaluation.odometry_drift import ConstantVelocity, OrbRansac, Own, measure

    own = Own()
    rows = []
    for method, odometry in (("geoloc", own), ("orb", OrbRansac()), ("constant velocity", ConstantVelocity())):
        drift, flown_m = measure(recording, odometry, rate_hz, error_deg)
        figures = drift.stretches if drift.stretches.size else [math.nan]
        row = {
            "flight": name,
            "rate_hz": rate_hz,
            "attitude_error_deg": error_deg,
            "method": method,
            "flown_m": round(flown_m, 1),
            "drift_percent_median": _number(sorted(figures)[len(figures) // 2]),
            "drift_percent_p95": _number(sorted(figures)[int(0.95 * (len(figures) - 1))]),
            "end_percent": _number(drift.whole),
            "measured": round(drift.measured, 3),
            "ms_p50": _number(sorted(drift.ms)[len(drift.ms) // 2] if len(drift.ms) else math.nan),
            "ms_p95": _number(sorted(drift.ms)[int(0.95 * (len(drift.ms) - 1))] if len(drift.ms) else math.nan),
        }
        rows.append(row | ({"refused": dict(own.refused)} if odometry is own else {}))
    return rows


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 3)


def _print(rows: list[dict[str, Any]], console: Console) -> None:
    from geoloc_ros.core.evaluation.odometry_drift import STRETCH_M

    table = plain_table(("flight", "odometry"), ("Hz", "tilt °", "drift %", "p95 %", "end %", "seen", "ms", "p95 ms"))
    for row in rows:
        table.add_row(
            row["flight"],
            row["method"],
            f"{row['rate_hz']:g}",
            f"{row['attitude_error_deg']:g}",
            *(
                "-" if row[key] is None else f"{row[key]:.2f}"
                for key in ("drift_percent_median", "drift_percent_p95", "end_percent", "measured", "ms_p50", "ms_p95")
            ),
        )
    console.print(table)
    print_line(console, f"drift: at the end of stretches of {STRETCH_M:g} m; seen: frames that showed a motion")
    for row in rows:
        if row["method"] == "geoloc":
            reasons = ", ".join(f"{reason} {count}" for reason, count in row["refused"].items())
            head = f"{row['flight']}, {row['rate_hz']:g} Hz, tilt {row['attitude_error_deg']:g}°"
            print_line(console, f"{head}: {row['flown_m']:.0f} m flown; refused: {reasons or 'nothing'}")
