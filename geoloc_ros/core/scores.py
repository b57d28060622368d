# SPDX-License-Identifier: Apache-2.0
"""What came out of a run, frame by frame, and what it adds up to.

A run is any way to get positions for a flight: `geoloc evaluate`, the live graph, or a baseline. All are
scored here, so that their numbers mean the same. Positions are WGS84 degrees, errors metres in east-north.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models import metrics
from geoloc_ros.core.geodesy import LocalEnu


@dataclass(frozen=True)
class FrameScore:
    """One frame's answer against its truth. Positions that do not exist are NaN.

    `valid`: the answer passed every gate and went out as a fix. Where frames are scored alone, an answer that
    did not pass is scored too, as a best guess; a tracker's is not.
    """

    index: int
    stamp_s: float
    state: str
    valid: bool
    lat_deg: float
    lon_deg: float
    truth_lat_deg: float
    truth_lon_deg: float
    height_m: float
    covariance_enu_m2: np.ndarray
    """(2, 2), of (east, north), m^2; NaN where there is no position."""
    error_m: float
    """Haversine distance to the truth, m; NaN where there is no position."""
    nees: float
    rds: float
    """Relative distance score in the crop that was searched; 0 where there is no position, NaN if unknown."""
    latency_ms: float
    peak: float
    reason: str
    stages_ms: Mapping[str, float]
    """What `latency_ms` was spent on, by stage, in the order of the work."""
    dropped: bool
    """Never looked at: its picture could not be decoded, or live it went unanswered for a newer one."""


def score_fix(
    *,
    index: int,
    stamp_s: float,
    truth_lat_lon_deg: tuple[float, float],
    lat_lon_deg: tuple[float, float] | None,
    valid: bool = True,
    covariance_enu_m2: np.ndarray | None = None,
    search_size_m: float = float("nan"),
    height_m: float = float("nan"),
    latency_ms: float = float("nan"),
    state: str = "",
    peak: float = float("nan"),
    reason: str = "",
    stages_ms: Mapping[str, float] | None = None,
    dropped: bool = False,
) -> FrameScore:
    """Score one answer; `lat_lon_deg` None says that there was none (a miss, not an error of zero).

    `search_size_m` is the side of the square that was searched, for RDS.
    """
    answered = lat_lon_deg is not None and bool(np.all(np.isfinite(lat_lon_deg)))
    lat_deg, lon_deg = lat_lon_deg if lat_lon_deg is not None and answered else (np.nan, np.nan)
    covariance = np.full((2, 2), np.nan)
    error_m = nees = float("nan")
    # A frame without an answer scores nothing, whatever was searched.
    relative = 0.0
    if answered:
        error_m = float(metrics.haversine_m(lat_deg, lon_deg, *truth_lat_lon_deg))
        east_m, north_m = LocalEnu(*truth_lat_lon_deg).to_enu(lat_deg, lon_deg)
        if covariance_enu_m2 is not None:
            covariance = np.asarray(covariance_enu_m2, dtype=np.float64).reshape(2, 2)
            nees = float(metrics.nees([[east_m, north_m]], covariance[None])[0])
        relative = float(
            metrics.relative_distance_scores(
                [[east_m, -north_m]], [[0.0, 0.0]], (search_size_m, search_size_m), truncate_label=False
            )[0]
            if np.isfinite(search_size_m)
            else np.nan
        )
    return FrameScore(
        index=index,
        stamp_s=stamp_s,
        state=state,
        valid=valid and answered,
        lat_deg=float(lat_deg),
        lon_deg=float(lon_deg),
        truth_lat_deg=float(truth_lat_lon_deg[0]),
        truth_lon_deg=float(truth_lat_lon_deg[1]),
        height_m=height_m,
        covariance_enu_m2=covariance,
        error_m=error_m,
        nees=nees,
        rds=relative,
        latency_ms=latency_ms,
        peak=peak,
        reason=reason,
        stages_ms=dict(stages_ms or {}),
        dropped=dropped,
    )


@dataclass(frozen=True)
class Closeup:
    """What the localizer saw in one frame, for the report's gallery of worst frames."""

    index: int
    title: str
    query: np.ndarray
    """(h, w, 3) uint8 RGB, rectified view."""
    search_map: np.ndarray
    """(H, W, 3) uint8 RGB map crop."""
    heatmap: np.ndarray | None
    """(H, W) float32 probability at the crop's resolution."""
    fix_xy_px: tuple[float, float] | None
    """Where the view's centre was found, and truly lies, in pixel-edge coordinates of the crop."""
    truth_xy_px: tuple[float, float] | None


@dataclass(frozen=True)
class SearchRecord:
    """One search of the whole map, for the report.

    begin_s: stamp of its first frame; duration_s: to its last one; frames: how many it took, those two included.
    accepted: whether a place was. log_odds: of the likeliest place at the end against everywhere else, natural
    logarithm, -inf without any. error_m: distance of the accepted place from the truth, NaN without. picture: (h, w, 3)
    uint8 RGB of the candidates at the end (`overlay.draw_candidates`), None without any.
    """

    begin_s: float
    duration_s: float
    frames: int
    accepted: bool
    log_odds: float
    error_m: float
    picture: np.ndarray | None


@dataclass
class Run:
    """A named way to get positions and all that it gave for one flight."""

    name: str
    mode: str
    weights: str
    device: str
    frames: list[FrameScore]
    closeups: list[Closeup] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    """Settings worth repeating: seed, prior noise, map, note on the data."""
    searches: list[SearchRecord] = field(default_factory=list)
    stopped: bool = False
    """Whether it ended before the recording did."""
    frames_read: int | None = None
    """Frames of the recording that were read, those without truth included, of frames_expected; None if unknown."""
    frames_expected: int | None = None


def rounded(value: Any, digits: int) -> float | None:
    """JSON has no NaN: what cannot be computed is null."""
    return round(float(value), digits) if np.isfinite(value) else None


def _percentile(values: np.ndarray, share: float) -> float:
    return float(np.percentile(values, share)) if values.size else float("nan")


def summarize(run: Run) -> dict[str, Any]:
    """The figures of one run. `ma` and `rds` are over all frames: one without an answer is a miss.

    `median_error_m` is over all answers: the valid fixes of a tracker, every best guess where frames are scored
    alone. `ma_valid`, `ape_*`, `rpe_*`, `nees_mean`, `coverage_2sigma` and `false_fix_rate` are over valid
    fixes. null says that there is nothing to compute from.
    """
    errors = np.array([frame.error_m for frame in run.frames], dtype=np.float64)
    valid = np.array([frame.valid for frame in run.frames], dtype=bool)
    nees = np.array([frame.nees for frame in run.frames], dtype=np.float64)
    latency = np.array([frame.latency_ms for frame in run.frames], dtype=np.float64)
    latency = latency[np.isfinite(latency)]
    answers = errors[np.isfinite(errors)]
    with_covariance = valid & ~np.isnan(nees)
    false_fixes = metrics.is_false_fix(errors[valid], nees[valid])
    recoveries = recovery_times_s(run.frames)
    return {
        "name": run.name,
        "mode": run.mode,
        "frames": len(run.frames),
        "median_error_m": rounded(np.median(answers) if answers.size else np.nan, 6),
        "ma": {str(k): rounded(metrics.ma_at_k(errors, k), 6) for k in metrics.MA_DISTANCES_M},
        "ma_valid": {str(k): rounded(metrics.ma_at_k(errors[valid], k), 6) for k in metrics.MA_DISTANCES_M},
        "rds": rounded(np.mean([frame.rds for frame in run.frames]) if run.frames else np.nan, 6),
        "availability": rounded(valid.mean() if valid.size else np.nan, 6),
        "false_fix_rate": rounded(false_fixes.mean() if false_fixes.size else 0.0, 6),
        "false_fixes": int(false_fixes.sum()),
        "nees_mean": rounded(nees[with_covariance].mean() if with_covariance.any() else np.nan, 6),
        "coverage_2sigma": rounded(metrics.sigma_coverage(nees[with_covariance]), 6),
        "ape_rmse_m": rounded(np.sqrt(np.mean(errors[valid] ** 2)) if valid.any() else np.nan, 6),
        "ape_max_m": rounded(errors[valid].max() if valid.any() else np.nan, 6),
        "rpe_rmse_m": rounded(relative_pose_error_m(run.frames), 6),
        "recovery_s": {"count": len(recoveries), "max": rounded(max(recoveries, default=np.nan), 3)},
        "latency_ms": {f"p{share}": rounded(_percentile(latency, share), 3) for share in (50, 95, 99)},
        "searches": [_search_figures(search) for search in run.searches],
        "device": run.device,
        "weights": run.weights,
        **run.about,
    }


def _search_figures(search: SearchRecord) -> dict[str, Any]:
    return {
        "begin_s": rounded(search.begin_s, 6),
        "duration_s": rounded(search.duration_s, 3),
        "frames": search.frames,
        "accepted": search.accepted,
        "log_odds": rounded(search.log_odds, 3),
        "error_m": rounded(search.error_m, 3),
    }


def relative_pose_error_m(frames: Sequence[FrameScore]) -> float:
    """RMSE, m, of the displacement between consecutive valid fixes against the truth's, without alignment."""
    used = [frame for frame in frames if frame.valid]
    if len(used) < 2:
        return float("nan")
    enu = LocalEnu(used[0].truth_lat_deg, used[0].truth_lon_deg)
    fixes = np.column_stack(enu.to_enu(_column(used, "lat_deg"), _column(used, "lon_deg")))
    truth = np.column_stack(enu.to_enu(_column(used, "truth_lat_deg"), _column(used, "truth_lon_deg")))
    steps = np.diff(fixes - truth, axis=0)
    return float(np.sqrt(np.mean(np.sum(steps**2, axis=1))))


def recovery_times_s(frames: Sequence[FrameScore]) -> list[float]:
    """How long each gap lasted, s: from the first frame without a valid fix to the next frame with one.

    The time before the first fix counts as a gap as well; a gap that never ends does not.
    """
    times: list[float] = []
    lost_since: float | None = None
    for frame in frames:
        if not frame.valid and lost_since is None:
            lost_since = frame.stamp_s
        elif frame.valid and lost_since is not None:
            times.append(frame.stamp_s - lost_since)
            lost_since = None
    return times


def _column(frames: Sequence[FrameScore], name: str) -> np.ndarray:
    return np.array([getattr(frame, name) for frame in frames], dtype=np.float64)


def write_errors_csv(path: Path, frames: Sequence[FrameScore]) -> None:
    """One row a frame; empty cells where there is no position."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            ["index", "stamp_s", "state", "valid", "lat_deg", "lon_deg", "truth_lat_deg", "truth_lon_deg",
             "error_m", "sigma_east_m", "sigma_north_m", "nees", "rds", "latency_ms", "peak", "reason"]
        )  # fmt: skip
        for frame in frames:
            sigma = np.sqrt(np.diag(frame.covariance_enu_m2))
            numbers = [
                (frame.lat_deg, 9), (frame.lon_deg, 9), (frame.truth_lat_deg, 9), (frame.truth_lon_deg, 9),
                (frame.error_m, 4), (sigma[0], 4), (sigma[1], 4), (frame.nees, 4), (frame.rds, 6),
                (frame.latency_ms, 3), (frame.peak, 6),
            ]  # fmt: skip
            cells = [f"{value:.{digits}f}" if np.isfinite(value) else "" for value, digits in numbers]
            writer.writerow(
                [frame.index, f"{frame.stamp_s:.6f}", frame.state, int(frame.valid), *cells, frame.reason]
            )


def write_tum(path: Path, frames: Sequence[FrameScore], truth: bool = False) -> None:
    """TUM trajectory (`t x y z qx qy qz qw`) in the tangent ENU of the first frame's truth, m.

    z is the height above ground; positions carry no attitude, so the rotation is the identity.
    """
    used = [frame for frame in frames if truth or frame.valid]
    lines: list[str] = []
    if used:
        enu = LocalEnu(frames[0].truth_lat_deg, frames[0].truth_lon_deg)
        prefix = "truth_" if truth else ""
        east, north = enu.to_enu(_column(used, f"{prefix}lat_deg"), _column(used, f"{prefix}lon_deg"))
        height = np.nan_to_num(_column(used, "height_m"))
        lines = [
            f"{frame.stamp_s:.6f} {x:.6f} {y:.6f} {z:.6f} 0 0 0 1"
            for frame, x, y, z in zip(used, east, north, height, strict=True)
        ]
    path.write_text("".join(line + "\n" for line in lines))


def table_rows(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table that terminal and report show, one row a run."""
    headings = ["run", "frames", "median m", *(f"MA@{k}" for k in metrics.MA_DISTANCES_M), "RDS", "available",
                "false fixes", "NEES", "2σ cover", "p50 ms", "p95 ms"]  # fmt: skip

    def text(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            str(s["name"]), str(s["frames"]), text(s["median_error_m"], 2),
            *(text(s["ma"][str(k)], 3) for k in metrics.MA_DISTANCES_M),
            text(s["rds"], 3), text(s["availability"], 3), text(s["false_fix_rate"], 3),
            text(s["nees_mean"], 2), text(s["coverage_2sigma"], 3),
            text(s["latency_ms"]["p50"], 1), text(s["latency_ms"]["p95"], 1),
        ]
        for s in summaries
    ]  # fmt: skip
    return headings, rows
