# SPDX-License-Identifier: Apache-2.0
"""What came out of a run, frame by frame, and what it adds up to.

A run is any way to get positions for a flight: `geoloc evaluate`, the live graph, or a baseline. All are
scored here, so that their numbers mean the same. Positions are WGS84 degrees, errors metres in east-north.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geoloc_models import metrics
from geoloc_ros.core.evaluation.pose_errors import absolute_errors_m, relative_statistics, statistics
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.matching.stage_times import STAGES


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
    heading_error_deg: float
    """Absolute error of the heading that the track has learned, without a track of the frame's alignment; NaN without
    either, or without a truth.
    """
    height_scale_error_percent: float
    """Absolute, of the true height over the reported one as it was found."""
    support: float
    """Share of the view's blocks that agree with its alignment, 0..1; NaN where it was not aligned."""
    dropped: bool
    """Never looked at: its picture could not be decoded, or live it went unanswered for a newer one."""

    @property
    def sigma_m(self) -> float:
        """Standard deviation along the covariance's largest axis, m; NaN without a covariance."""
        (east, both), (_, north) = self.covariance_enu_m2.tolist()
        # The larger root of the characteristic polynomial.
        return math.sqrt(max((east + north) / 2 + math.hypot((east - north) / 2, both), 0.0))


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
    heading_error_deg: float = float("nan"),
    height_scale_error_percent: float = float("nan"),
    support: float = float("nan"),
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
        heading_error_deg=heading_error_deg,
        height_scale_error_percent=height_scale_error_percent,
        support=support,
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


def summarize(run: Run) -> dict[str, Any]:
    """The figures of one run. `ma` and `rds` are over all frames: one without an answer is a miss.

    `median_error_m` is over all answers: the valid fixes of a tracker, every best guess where frames are scored
    alone. `ma_valid`, `ape_m`, `rpe_m`, `nees_mean`, `coverage_*sigma` and `false_fix_rate` are over valid
    fixes; medians of heading error, height scale error and support are over the frames that have them. null says that
    there is nothing to compute from. docs/report.md defines each.
    """
    errors = np.array([frame.error_m for frame in run.frames], dtype=np.float64)
    valid = np.array([frame.valid for frame in run.frames], dtype=bool)
    nees = np.array([frame.nees for frame in run.frames], dtype=np.float64)
    latency = np.array([frame.latency_ms for frame in run.frames], dtype=np.float64)
    answers = errors[np.isfinite(errors)]
    with_covariance = valid & ~np.isnan(nees)
    false_fixes = metrics.is_false_fix(errors[valid], nees[valid])
    lost = gaps(run.frames)
    truth_enu_m, fixes_enu_m = positions_enu_m(run.frames)
    return {
        "name": run.name,
        "mode": run.mode,
        "frames": len(run.frames),
        "partial": run.stopped,
        "frames_read": run.frames_read,
        "frames_expected": run.frames_expected,
        "dropped_frames": sum(frame.dropped for frame in run.frames),
        "median_error_m": rounded(np.median(answers) if answers.size else np.nan, 6),
        "ma": {str(k): rounded(metrics.ma_at_k(errors, k), 6) for k in metrics.MA_DISTANCES_M},
        "ma_valid": {str(k): rounded(metrics.ma_at_k(errors[valid], k), 6) for k in metrics.MA_DISTANCES_M},
        "rds": rounded(np.mean([frame.rds for frame in run.frames]) if run.frames else np.nan, 6),
        "availability": rounded(valid.mean() if valid.size else np.nan, 6),
        "false_fix_rate": rounded(false_fixes.mean() if false_fixes.size else 0.0, 6),
        "false_fixes": int(false_fixes.sum()),
        "nees_mean": rounded(nees[with_covariance].mean() if with_covariance.any() else np.nan, 6),
        **{f"{name}_median": _median(column(run.frames, name)) for name in _POSE},
        **{f"coverage_{k}sigma": rounded(metrics.sigma_coverage(nees[with_covariance], k), 6) for k in (1, 2, 3)},
        "ape_m": _all_rounded(statistics(absolute_errors_m(truth_enu_m, fixes_enu_m))),
        "rpe_m": {
            step: _all_rounded(figures) for step, figures in relative_statistics(truth_enu_m, fixes_enu_m).items()
        },
        "recovery_s": _recovery_figures(lost),
        "gaps": [
            {
                "begin_s": rounded(gap.begin_s, 6),
                "duration_s": rounded(gap.duration_s, 3),
                "frames": gap.frames,
                "reason": gap.reason,
            }
            for gap in lost
        ],
        "latency_ms": {
            **_percentiles(latency),
            "stages": _stage_percentiles(run.frames),
            "by_state": _state_percentiles(run.frames),
        },
        "searches": [_search_figures(search) for search in run.searches],
        "device": run.device,
        "weights": run.weights,
        **run.about,
    }


_POSE = ("heading_error_deg", "height_scale_error_percent", "support")
"""Fields of a frame whose medians are in the summary."""


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return rounded(np.median(known) if known.size else np.nan, 6)


def _all_rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: rounded(value, 6) for name, value in figures.items()}


def _percentiles(values_ms: np.ndarray) -> dict[str, float | None]:
    known = values_ms[np.isfinite(values_ms)]
    return {f"p{share}": rounded(np.percentile(known, share) if known.size else np.nan, 3) for share in (50, 95, 99)}


def stages(frames: Sequence[FrameScore]) -> list[str]:
    """The stages of all frames in the order of the work."""
    names = {stage for frame in frames for stage in frame.stages_ms}
    return [stage for stage in STAGES if stage in names] + sorted(names.difference(STAGES))


def _stage_percentiles(frames: Sequence[FrameScore]) -> dict[str, dict[str, float | None]]:
    return {
        stage: _percentiles(np.array([frame.stages_ms.get(stage, np.nan) for frame in frames]))
        for stage in stages(frames)
    }


def _state_percentiles(frames: Sequence[FrameScore]) -> dict[str, dict[str, float | None]]:
    """Of the frames that ended in each state: a search takes longer than a track."""
    return {
        state: _percentiles(np.array([frame.latency_ms for frame in frames if frame.state == state]))
        for state in dict.fromkeys(frame.state for frame in frames)
    }


def _recovery_figures(lost: "Sequence[Gap]") -> dict[str, float | None]:
    """Of the gaps that ended: how many, and how long they lasted."""
    times_s = [gap.duration_s for gap in lost if np.isfinite(gap.duration_s)]
    return {
        "count": len(times_s),
        "median": rounded(np.median(times_s) if times_s else np.nan, 3),
        "max": rounded(max(times_s, default=np.nan), 3),
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


def positions_enu_m(frames: Sequence[FrameScore]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) truth and (N, 2) fixes of the valid frames in the local ENU of the first frame's truth, m."""
    used = [frame for frame in frames if frame.valid]
    if not used:
        return np.empty((0, 2)), np.empty((0, 2))
    enu = LocalEnu(frames[0].truth_lat_deg, frames[0].truth_lon_deg)
    truth = enu.to_enu(column(used, "truth_lat_deg"), column(used, "truth_lon_deg"))
    return np.column_stack(truth), np.column_stack(enu.to_enu(column(used, "lat_deg"), column(used, "lon_deg")))


def stretches(frames: Sequence[FrameScore], valid: bool) -> list[tuple[int, int]]:
    """(first, last) places of all frames in a row that have a valid fix, or have none."""
    found = []
    for kind, group in itertools.groupby(range(len(frames)), key=lambda place: frames[place].valid):
        if kind == valid:
            places = list(group)
            found.append((places[0], places[-1]))
    return found


@dataclass(frozen=True)
class Gap:
    """Frames in a row without a valid fix.

    begin_s: stamp of the first of them; duration_s: from there to the next fix, NaN where none came; frames: how many;
    reason: why the first of them was none.
    """

    begin_s: float
    duration_s: float
    frames: int
    reason: str


def gaps(frames: Sequence[FrameScore]) -> list[Gap]:
    """Every time without a fix, the one before the first fix included: how long it takes to find itself (again)."""
    found = []
    for first, last in stretches(frames, valid=False):
        end_s = frames[last + 1].stamp_s if last + 1 < len(frames) else float("nan")
        start = frames[first]
        found.append(Gap(start.stamp_s, end_s - start.stamp_s, last - first + 1, start.reason))
    return found


def column(frames: Sequence[FrameScore], name: str) -> np.ndarray:
    """(N,) of one number of each frame."""
    return np.array([getattr(frame, name) for frame in frames], dtype=np.float64)
