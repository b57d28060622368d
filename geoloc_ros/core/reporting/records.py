# SPDX-License-Identifier: Apache-2.0
"""The frames of a run as a table: the CSV beside a report, and in report.json what it can be drawn from again."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_ros.core.evaluation.scores import FrameScore, rounded, stages

_NUMBERS = {
    "lat_deg": 9,
    "lon_deg": 9,
    "truth_lat_deg": 9,
    "truth_lon_deg": 9,
    "height_m": 3,
    "error_m": 4,
    "nees": 4,
    "rds": 6,
    "latency_ms": 3,
    "peak": 6,
    "heading_error_deg": 4,
    "height_scale_error_percent": 4,
    "support": 4,
}
"""Fields of a frame and their digits; degrees to 0.1 mm."""


def table(frames: Sequence[FrameScore]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one row a frame; None where there is no position, or nothing was measured.

    The covariance is given as standard deviations and correlation, the stages of the latency as STAGE_ms.
    """
    names = stages(frames)
    columns = ["index", "stamp_s", "state", "valid", "dropped", *_NUMBERS, "sigma_east_m", "sigma_north_m",
               "correlation", *(f"{stage}_ms" for stage in names), "reason"]  # fmt: skip
    rows = []
    for frame in frames:
        (east, both), (_, north) = frame.covariance_enu_m2.tolist()
        sigma_east_m, sigma_north_m = math.sqrt(max(east, 0.0)), math.sqrt(max(north, 0.0))
        correlation = both / max(sigma_east_m * sigma_north_m, 1e-12)
        rows.append(
            [
                frame.index, round(frame.stamp_s, 6), frame.state, int(frame.valid), int(frame.dropped),
                *(rounded(getattr(frame, name), digits) for name, digits in _NUMBERS.items()),
                rounded(sigma_east_m, 4), rounded(sigma_north_m, 4), rounded(correlation, 6),
                *(rounded(frame.stages_ms.get(stage, np.nan), 3) for stage in names), frame.reason,
            ]
        )  # fmt: skip
    return columns, rows


def frames_of(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[FrameScore]:
    """The frames that such a table was made of, to its digits. KeyError if a column is missing."""
    return [_frame(dict(zip(columns, row, strict=True))) for row in rows]


def _frame(row: dict[str, Any]) -> FrameScore:
    def number(name: str) -> float:
        return float("nan") if row[name] is None else float(row[name])

    sigma = np.array([number("sigma_east_m"), number("sigma_north_m")])
    correlation = number("correlation")
    times = [name for name in row if name.endswith("_ms") and name != "latency_ms" and row[name] is not None]
    return FrameScore(
        index=int(row["index"]),
        stamp_s=float(row["stamp_s"]),
        state=str(row["state"]),
        valid=bool(row["valid"]),
        dropped=bool(row["dropped"]),
        **{name: number(name) for name in _NUMBERS},
        covariance_enu_m2=np.outer(sigma, sigma) * np.array([[1.0, correlation], [correlation, 1.0]]),
        stages_ms={name.removesuffix("_ms"): float(row[name]) for name in times},
        reason=str(row["reason"]),
    )


def write_errors_csv(path: Path, frames: Sequence[FrameScore]) -> None:
    """`table` as a file; empty cells for None."""
    columns, rows = table(frames)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(rows)
