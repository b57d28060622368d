# SPDX-License-Identifier: Apache-2.0
"""Starts without a prior, all along a flight."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_models.metrics import FALSE_FIX_DISTANCE_M
from geoloc_ros.core.evaluation.scores import rounded
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.overlay import draw_candidates
from geoloc_ros.core.recording.frame import Frame, Recording


@dataclass(frozen=True)
class Start:
    """One start without prior. frames, seconds: until the first fix, that included; None and NaN where there was none.

    error_m: of that fix, NaN without. log_odds: of the best place at the end, natural logarithm. reason: of the last
    frame without a fix. picture: (h, w, 3) uint8 RGB of the places that were weighed last, None if none was.
    """

    index: int
    frames: int | None
    seconds: float
    error_m: float
    log_odds: float
    reason: str
    latencies_ms: list[float]
    truth_lat_lon_deg: tuple[float, float]
    picture: np.ndarray | None = None

    @property
    def wrong(self) -> bool:
        """Whether a fix was given that is not of this place."""
        return self.frames is not None and self.error_m > FALSE_FIX_DISTANCE_M


def cold_starts(
    flight: Recording,
    make_localizer: Callable[[], Localizer],
    starts: int,
    frames: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Start]:
    """Start at places spread evenly over the flight, each time knowing nothing, and give each so many frames.

    GeolocError if the flight is shorter than one start.
    """
    if frames > len(flight):
        raise GeolocError(f"the flight has {len(flight)} frames, a start is given {frames}: lower --start-frames")
    results = []
    for first in np.linspace(0, len(flight) - frames, starts).round().astype(int).tolist():
        localizer = make_localizer()
        shown = list(flight.frames(first, first + frames))
        results.append(_start(first, shown, localizer))
        advance()
    return results


def _start(first: int, frames: Sequence[Frame], localizer: Localizer) -> Start:
    latencies: list[float] = []
    log_odds, reason, picture = -math.inf, "", None
    error_m = math.nan
    for frame in frames:
        if frame.truth is None:
            raise GeolocError(f"the frame at {frame.stamp_s} s has no truth, and a start there cannot be scored")
        truth = frame.truth.lat_deg, frame.truth.lon_deg
        estimate = localizer.process(frame)
        latencies.append(estimate.latencies_ms["total"])
        log_odds = estimate.candidates[0].log_odds if estimate.candidates else -math.inf
        if estimate.candidates:
            picture = draw_candidates(estimate, truth)
        if estimate.valid:
            error_m = math.hypot(*LocalEnu(*truth).to_enu(estimate.lat_deg, estimate.lon_deg))
            break
        reason = estimate.reason
    fixed = math.isfinite(error_m)
    return Start(
        index=first,
        frames=len(latencies) if fixed else None,
        seconds=frame.stamp_s - frames[0].stamp_s if fixed else math.nan,
        error_m=error_m,
        log_odds=log_odds,
        reason=reason,
        latencies_ms=latencies,
        truth_lat_lon_deg=truth,
        picture=picture,
    )


def summarize_starts(starts: Sequence[Start], frames: int) -> dict[str, Any]:
    """The figures of many starts; null says that there is nothing to compute from."""
    found = [start for start in starts if start.frames is not None and not start.wrong]
    latencies = [ms for start in starts for ms in start.latencies_ms]

    def median(values: list[float]) -> float | None:
        return rounded(np.median(values) if values else math.nan, 3)

    return {
        "starts": len(starts),
        "frames_allowed": frames,
        "found": len(found),
        "wrong": sum(start.wrong for start in starts),
        "frames_median": median([float(start.frames or 0) for start in found]),
        "frames_max": max((start.frames or 0 for start in found), default=None),
        "seconds_median": median([start.seconds for start in found]),
        "median_error_m": median([start.error_m for start in found]),
        "frame_ms": {
            "p50": median(latencies),
            "p95": rounded(np.percentile(latencies, 95) if latencies else math.nan, 3),
        },
    }
