# SPDX-License-Identifier: Apache-2.0
"""Scores being found: starts without a prior all along a flight, and a vehicle that is moved while it sees nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_models.metrics import FALSE_FIX_DISTANCE_M
from geoloc_ros.core.evaluation.scores import rounded
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.overlay import draw_candidates
from geoloc_ros.core.recording.frame import Frame, Recording, Truth, noisy_prior

BLANK_S = 20.0
"""How long a kidnapped vehicle sees nothing."""
MOVED_M = 300.0
"""How far it is from where it saw last when it sees again, at least."""
WRONG_PRIOR_M = 500.0
"""How far off the wrong prior is, which says it was within WRONG_PRIOR_RADIUS_M."""
WRONG_PRIOR_RADIUS_M = 50.0


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
        raise GeolocError(
            f"the flight has {len(flight)} frames, a start is given {frames}: lower --start-frames"
        )
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
            raise GeolocError(
                f"the frame at {frame.stamp_s} s has no truth, and a start there cannot be scored"
            )
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


@dataclass(frozen=True)
class Step:
    """A frame of a staged flight, its truth, and the prior (lat_deg, lon_deg, radius_m) set before it, if any."""

    frame: Frame
    truth: Truth
    prior: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Kidnap:
    """Something that was done to the vehicle; stamp_s: of the first frame from which it could find itself again."""

    what: str
    stamp_s: float


def kidnapped(flight: Recording, seed: int) -> tuple[Iterator[Step], list[Kidnap]]:
    """A flight in which the vehicle is kidnapped twice, and when.

    After a third, the camera shows black for BLANK_S and then what is at least MOVED_M from where it saw last. Halfway
    through the rest a prior is set that is WRONG_PRIOR_M off. GeolocError: the flight is too short, or over too little
    ground.
    """
    blind = len(flight) // 3
    sighted = blind
    while sighted < len(flight) and flight.stamp_s(sighted) - flight.stamp_s(blind) < BLANK_S:
        sighted += 1
    covered = range(blind, sighted)

    def truth_of(index: int) -> Truth:
        truth = flight.truth(index)
        if truth is None:
            raise GeolocError(
                f"the frame at {flight.stamp_s(index)} s has no truth: --kidnap needs it everywhere"
            )
        return truth

    seen = truth_of(max(blind - 1, 0))
    enu = LocalEnu(seen.lat_deg, seen.lon_deg)

    def moved_m(index: int) -> float:
        truth = truth_of(index)
        return math.hypot(*enu.to_enu(truth.lat_deg, truth.lon_deg))

    while sighted < len(flight) and moved_m(sighted) < MOVED_M:
        sighted += 1
    if len(flight) - sighted < 20:
        raise GeolocError(
            f"too little of the flight lies beyond {BLANK_S:.0f} s and {MOVED_M:.0f} m of its first third: "
            "--kidnap needs a longer flight"
        )
    misled = (sighted + len(flight)) // 2
    # The clock runs on through what is left out.
    early_s = flight.stamp_s(sighted) - (flight.stamp_s(blind) + BLANK_S)

    def steps() -> Iterator[Step]:
        shown = itertools.chain(
            enumerate(flight.frames(0, covered.stop)), enumerate(flight.frames(sighted, len(flight)), sighted)
        )
        for index, frame in shown:
            truth, prior = truth_of(index), None
            if index in covered and frame.image is not None:
                frame = replace(frame, image=np.zeros_like(frame.image))
            if index >= sighted:
                frame = replace(frame, stamp_s=frame.stamp_s - early_s)
            if index == misled:
                prior = (*noisy_prior(truth, WRONG_PRIOR_M, seed)[:2], WRONG_PRIOR_RADIUS_M)
            yield Step(frame, truth, prior)

    return steps(), [
        Kidnap(
            f"blind for {BLANK_S:.0f} s and moved {moved_m(sighted):.0f} m", flight.stamp_s(sighted) - early_s
        ),
        Kidnap(f"prior set {WRONG_PRIOR_M:.0f} m off", flight.stamp_s(misled) - early_s),
    ]


def times_to_relocalize_s(
    events: Sequence[Kidnap], stamps_s: Sequence[float], fixed: Sequence[bool]
) -> list[float]:
    """For each event the time until the next fix, s; NaN where none came before the next event or the end."""
    ends = [event.stamp_s for event in events[1:]] + [math.inf]
    times = []
    for event, end in zip(events, ends, strict=True):
        fixes = [
            stamp
            for stamp, valid in zip(stamps_s, fixed, strict=True)
            if valid and event.stamp_s <= stamp < end
        ]
        times.append(min(fixes, default=math.nan) - event.stamp_s)
    return times
