# SPDX-License-Identifier: Apache-2.0
"""A long and nasty flight of fixes for a bridge, and the judge of what came out of it at the other end.

The script mixes what a localizer may say: good fixes, refused frames, losses and relocalizations, and what a faulty
system may say on top of it: not-a-number, old and repeated stamps, stamps out of order or from the future. The judge
sees only what was published and what arrived, so it knows nothing of how the bridge decides.
"""

import enum
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from geoloc_ros.core.autopilot.fix_gate import COUNTER_SIZE
from geoloc_ros.core.localization.state import State

SURELY_FRESH = 0.5
"""A good fix that is published with this share of the limit left must arrive under any load."""
LEAST_ARRIVED = 0.95
"""Share of those that must arrive."""


class Kind(enum.Enum):
    """What one frame of the script is."""

    GOOD = "good"
    REFUSED = "refused frame"
    NAN_PLACE = "latitude not a number"
    NAN_SPREAD = "covariance not a number"
    STALE = "stale"
    AGAIN = "stamp of the last one"
    DISORDER = "stamp before the last one"
    FUTURE = "stamp in the future"


_FAULTS = (Kind.REFUSED, Kind.NAN_PLACE, Kind.NAN_SPREAD, Kind.STALE, Kind.AGAIN, Kind.DISORDER, Kind.FUTURE)


@dataclass(frozen=True)
class Planned:
    """A frame of the script: age_s is the age of its stamp when it is published."""

    state: State
    kind: Kind
    age_s: float


@dataclass(frozen=True)
class Published:
    """A frame as the localizer published it."""

    planned: Planned
    stamp_us: int
    said_s: float


@dataclass(frozen=True)
class Arrived:
    """A sample at the autopilot's end: when it was sent, and its numbers; counter None where it has none."""

    stamp_us: int
    sent_s: float
    numbers: tuple[float, ...]
    counter: int | None


@dataclass(frozen=True)
class Verdict:
    """What the judge found. counted: whether samples have a counter; oldest_s: at the moment of sending;
    relocalizations: those with a sample on both sides.
    """

    arrived: int
    counted: bool
    oldest_s: float
    bumps: int
    relocalizations: int
    violations: tuple[str, ...]


def script(seed: int, fault_share: float, limit_s: float) -> Iterator[Planned]:
    """Frames without end: prior, track, and again and again a loss and a relocalization of some frames each."""
    chance = random.Random(seed)

    def frames(state: State, low: int, high: int) -> Iterator[Planned]:
        for _ in range(chance.randint(low, high)):
            kind = chance.choice(_FAULTS) if chance.random() < fault_share else Kind.GOOD
            age_s = chance.uniform(0.05, 0.6) * limit_s
            if kind == Kind.STALE:
                age_s = chance.uniform(1.05, 2.5) * limit_s
            elif kind == Kind.FUTURE:
                age_s = -chance.uniform(1.0, 100.0)
            yield Planned(state, kind, age_s)

    yield from frames(State.UNINITIALIZED, 3, 6)
    yield from frames(State.RELOCALIZING, 2, 4)
    while True:
        yield from frames(State.TRACKING, 10, 60)
        if chance.random() < 0.7:
            yield from frames(State.DEAD_RECKONING, 1, 15)
            yield from frames(State.LOST, 1, 15)
        yield from frames(State.RELOCALIZING, 1, 6)


def judge(published: Sequence[Published], arrived: Sequence[Arrived], limit_s: float) -> Verdict:
    """Compare what arrived with what was published, each in its order."""
    # A repeated stamp counts as what it was the first time.
    index: dict[int, int] = {}
    for number, frame in enumerate(published):
        index.setdefault(frame.stamp_us, number)
    violations: list[str] = []
    oldest_s = 0.0
    for sample in arrived:
        number = index.get(sample.stamp_us, -1)
        wrong = _wrong(sample, published[number].planned if number >= 0 else None, limit_s)
        violations += [f"sample of stamp {sample.stamp_us} µs: {text}" for text in wrong]
        oldest_s = max(oldest_s, sample.sent_s - sample.stamp_us * 1e-6)
    bumps = relocalizations = 0
    for before, after in pairwise(arrived):
        if after.stamp_us <= before.stamp_us:
            violations.append(f"stamp {after.stamp_us} µs after {before.stamp_us} µs: not newer")
            continue
        if before.counter is None or after.counter is None:
            continue
        between = published[index.get(before.stamp_us, 0) : index.get(after.stamp_us, 0)]
        expected = any(frame.planned.state != State.TRACKING for frame in between)
        found = (after.counter - before.counter) % COUNTER_SIZE
        bumps, relocalizations = bumps + found, relocalizations + expected
        if found != expected:
            violations.append(f"counter went up by {found} at {after.stamp_us} µs, expected {int(expected)}")
    due = [
        frame.stamp_us
        for frame in published
        if _sendable(frame.planned) and frame.said_s - frame.stamp_us * 1e-6 < SURELY_FRESH * limit_s
    ]
    came = sum(stamp_us in {sample.stamp_us for sample in arrived} for stamp_us in due) if due else 0
    if due and came < LEAST_ARRIVED * len(due):
        violations.append(f"{came} of {len(due)} good and fresh fixes arrived, the limit is {LEAST_ARRIVED:.0%}")
    counted = any(sample.counter is not None for sample in arrived)
    return Verdict(len(arrived), counted, oldest_s, bumps, relocalizations, tuple(violations))


def _sendable(planned: Planned) -> bool:
    return planned.state == State.TRACKING and planned.kind == Kind.GOOD


def _wrong(sample: Arrived, planned: Planned | None, limit_s: float) -> list[str]:
    """Rules that one sample breaks on its own."""
    wrong = []
    if planned is None:
        wrong.append("was never published")
    elif not _sendable(planned):
        wrong.append(f"sent while {planned.state.name}, {planned.kind.value}")
    if not all(map(math.isfinite, sample.numbers)):
        wrong.append(f"not finite: {sample.numbers}")
    age_s = sample.sent_s - sample.stamp_us * 1e-6
    if not age_s <= limit_s:
        wrong.append(f"{age_s:.3f} s old, the limit is {limit_s:g} s")
    return wrong
