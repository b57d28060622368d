# SPDX-License-Identifier: Apache-2.0
"""A flight in which the vehicle is moved while it sees nothing, and later misled."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.recording.frame import Frame, Recording, Truth, noisy_prior

BLANK_S = 20.0
"""How long a kidnapped vehicle sees nothing."""

MOVED_M = 300.0
"""How far it is from where it saw last when it sees again, at least."""

WRONG_PRIOR_M = 500.0
"""How far off the wrong prior is, which says it was within WRONG_PRIOR_RADIUS_M."""

WRONG_PRIOR_RADIUS_M = 50.0


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
            raise GeolocError(f"the frame at {flight.stamp_s(index)} s has no truth: --kidnap needs it everywhere")
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
        Kidnap(f"blind for {BLANK_S:.0f} s and moved {moved_m(sighted):.0f} m", flight.stamp_s(sighted) - early_s),
        Kidnap(f"prior set {WRONG_PRIOR_M:.0f} m off", flight.stamp_s(misled) - early_s),
    ]


def times_to_relocalize_s(events: Sequence[Kidnap], stamps_s: Sequence[float], fixed: Sequence[bool]) -> list[float]:
    """For each event the time until the next fix, s; NaN where none came before the next event or the end."""
    ends = [event.stamp_s for event in events[1:]] + [math.inf]
    times = []
    for event, end in zip(events, ends, strict=True):
        fixes = [stamp for stamp, valid in zip(stamps_s, fixed, strict=True) if valid and event.stamp_s <= stamp < end]
        times.append(min(fixes, default=math.nan) - event.stamp_s)
    return times
