# SPDX-License-Identifier: Apache-2.0
"""The figures of runs as readers see them: names, units, digits, and which way is better. docs/report.md defines them.

A key is the path to a figure in the summary of a run, such as `ma.20` or `latency_ms.p95`.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoloc_models.metrics import MA_DISTANCES_M
from geoloc_ros.core.evaluation.pose_errors import RPE_DISTANCES_M

LARGER, SMALLER, NEITHER = math.inf, -math.inf, math.nan
"""Values of `Figure.best`; NEITHER for what two runs cannot be ranked by alone."""
NEES_EXPECTED = 2.0
COVERAGE_EXPECTED = {k: 1.0 - math.exp(-(k**2) / 2) for k in (1, 2, 3)}
"""Of a calibrated covariance in two dimensions: the mean of chi-square with 2 degrees of freedom, and its shares."""


@dataclass(frozen=True)
class Figure:
    """One figure; best: the value that nothing beats, or LARGER, SMALLER or NEITHER."""

    key: str
    label: str
    digits: int
    best: float
    unit: str = ""

    def of(self, summary: Mapping[str, Any]) -> float | None:
        """Its value in a summary; None where it could not be computed or is not there."""
        value: Any = summary
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) else None

    def text(self, value: float | None, signed: bool = False) -> str:
        """A value with its digits and without its unit."""
        return "–" if value is None else f"{value:{'+' if signed else ''}.{self.digits}f}"

    def worse_by(self, first: float | None, other: float | None) -> float:
        """How much worse `other` is than `first`, negative if better; NaN if that is undefined.

        No figure where there was one, as without any fix, is infinitely worse.
        """
        if math.isnan(self.best) or first is None:
            return math.nan
        if other is None:
            return math.inf
        if math.isinf(self.best):
            return first - other if self.best > 0 else other - first
        return abs(other - self.best) - abs(first - self.best)


GROUPS: dict[str, tuple[Figure, ...]] = {
    "Accuracy": (
        Figure("median_error_m", "median error", 2, SMALLER, "m"),
        *(Figure(f"ma.{k}", f"MA@{k}", 3, LARGER) for k in MA_DISTANCES_M),
        Figure("rds", "RDS", 3, LARGER),
    ),
    "Heading and height": (
        Figure("heading_error_deg_median", "median heading error", 2, SMALLER, "°"),
        Figure("height_scale_error_percent_median", "median height scale error", 2, SMALLER, "%"),
        Figure("support_median", "median support", 2, LARGER),
    ),
    "Trajectory": (
        *(
            Figure(f"ape_m.{name}", f"APE {name}", 2, SMALLER, "m")
            for name in ("rmse", "mean", "median", "std", "min", "max")
        ),
        Figure("ape_m.sse", "APE sse", 0, SMALLER, "m²"),
        Figure("rpe_m.1 frame.rmse", "RPE rmse over 1 frame", 2, SMALLER, "m"),
        *(
            Figure(f"rpe_m.{distance} m.rmse", f"RPE rmse over {distance} m", 2, SMALLER, "m")
            for distance in RPE_DISTANCES_M
        ),
    ),
    "Reliability": (
        Figure("availability", "available", 3, LARGER),
        Figure("false_fix_rate", "false-fix rate", 3, SMALLER),
        Figure("recovery_s.median", "median time to relocalize", 2, NEITHER, "s"),
        Figure("recovery_s.max", "longest time to relocalize", 2, NEITHER, "s"),
        Figure("dropped_frames", "dropped frames", 0, SMALLER),
    ),
    "Calibration of the covariance": (
        Figure("nees_mean", f"mean NEES ({NEES_EXPECTED:g} expected)", 2, NEES_EXPECTED),
        *(
            Figure(f"coverage_{k}sigma", f"truth within {k}σ ({share:.3f} expected)", 3, share)
            for k, share in COVERAGE_EXPECTED.items()
        ),
    ),
    "Latency": tuple(Figure(f"latency_ms.{p}", f"latency {p}", 1, SMALLER, "ms") for p in ("p50", "p95", "p99")),
}
FIGURES = {figure.key: figure for group in GROUPS.values() for figure in group}

_SHORT = {
    "median_error_m": "median m",
    **{f"ma.{k}": f"MA@{k}" for k in MA_DISTANCES_M},
    "rds": "RDS",
    "availability": "available",
    "false_fix_rate": "false fixes",
    "nees_mean": "NEES",
    "coverage_2sigma": "2σ cover",
    "latency_ms.p50": "p50 ms",
    "latency_ms.p95": "p95 ms",
    "heading_error_deg_median": "heading °",
    "height_scale_error_percent_median": "height %",
}
_SOMETIMES = ("heading_error_deg_median", "height_scale_error_percent_median")
"""Left out where no run has them."""


def table_rows(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the short table that terminal and report show, one row a run."""
    keys = [
        key
        for key in _SHORT
        if key not in _SOMETIMES or any(FIGURES[key].of(summary) is not None for summary in summaries)
    ]
    rows = [
        [str(summary["name"]), str(summary["frames"]), *(FIGURES[key].text(FIGURES[key].of(summary)) for key in keys)]
        for summary in summaries
    ]
    return ["run", "frames", *(_SHORT[key] for key in keys)], rows


def write_summary_csv(path: Path, summaries: Sequence[Mapping[str, Any]]) -> None:
    """One row a figure, one column a run; every number and word of the summaries but lists, which are in the JSON."""
    flat = [dict(_flat(summary)) for summary in summaries]
    keys = dict.fromkeys(key for each in flat for key in each)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["figure", *(each["name"] for each in flat)])
        writer.writerows([key, *(each.get(key) for each in flat)] for key in keys if key != "name")


def _flat(summary: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in summary.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            pairs.append((prefix + name, value))
    return pairs
