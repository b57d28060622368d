# SPDX-License-Identifier: Apache-2.0
"""Samples of a recorded sensor by time, and the clocks that they were stamped by."""

import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.messages.stamps import NS

OTHER_CLOCK_S = 1.0
"""Two topics whose recording lags their stamps by amounts that differ by more are stamped by two clocks."""


@dataclass(frozen=True)
class Series:
    """Samples of one sensor by time: stamps (n,) int64 ns, ascending; values (n, k), NaN where a sample is broken."""

    stamps_ns: np.ndarray
    values: np.ndarray
    reach_ns: int
    faults: dict[int, str]
    """Why a sample is broken, by its number."""
    only_between: bool = False
    """Whether a time needs samples on both sides: the nearest one alone is too far off by then."""

    def around(self, at_ns: int) -> tuple[np.ndarray, np.ndarray, float] | None:
        """The samples before and after a time and the share (0..1) of the way between them; None beyond reach.

        At a sample's own time both are that sample; where only one is within reach, both are that one. GeolocError
        with the reason where one of them is broken.
        """
        count = len(self.stamps_ns)
        after = int(np.searchsorted(self.stamps_ns, at_ns))
        if after < count and self.stamps_ns[after] == at_ns:
            near = [after]
        else:
            near = [i for i in (after - 1, after) if 0 <= i < count]
            near = [i for i in near if abs(int(self.stamps_ns[i]) - at_ns) <= self.reach_ns]
            if len(near) < 1 + self.only_between:
                return None
        for number in near:
            if number in self.faults:
                raise GeolocError(self.faults[number])
        start, end = near[0], near[-1]
        span_ns = int(self.stamps_ns[end]) - int(self.stamps_ns[start])
        share = (at_ns - int(self.stamps_ns[start])) / span_ns if span_ns else 0.0
        return self.values[start], self.values[end], share


@dataclass(frozen=True)
class Lag:
    """How far the recording of a topic lags its stamps, s: median and half the range of the middle 90 %.

    It also holds the difference between the recorder's clock and the sender's.
    """

    median_s: float
    spread_s: float

    @classmethod
    def of(cls, stamps_ns: np.ndarray, recorded_ns: np.ndarray) -> "Lag":
        low, median, high = np.percentile(recorded_ns - stamps_ns, (5, 50, 95))
        return cls(float(median) * 1e-9, float(high - low) * 0.5e-9)

    def other_clock(self, other: "Lag") -> bool:
        """Whether the two were stamped by two clocks; False where one was not recorded as it came."""
        steady = max(self.spread_s, other.spread_s) < OTHER_CLOCK_S
        return steady and abs(self.median_s - other.median_s) > OTHER_CLOCK_S


def unset(stamps_ns: np.ndarray) -> np.ndarray:
    """(n,) bool: which of a topic's (n,) stamps are 0 because the clock was not set yet, where others are set.

    A sender by simulated time stamps 0 until the first /clock. A clock that begins at 0 gives that stamp once, and the
    next one a period later.
    """
    zero = stamps_ns == 0
    if not zero.any() or zero.all():
        return np.zeros(len(stamps_ns), bool)
    later = np.unique(stamps_ns[~zero])
    period_ns = np.median(np.diff(later)) if len(later) > 1 else 0.0
    begins = np.count_nonzero(zero) == 1 and later[0] <= max(NS, 5.0 * period_ns)
    return zero & (not begins)


class Samples:
    """Numbers of one topic as they are read, compactly."""

    def __init__(self) -> None:
        self.stamps_ns = array.array("q")
        self.recorded_ns = array.array("q")
        self.values = array.array("d")
        self.faults: dict[int, str] = {}

    def add(self, stamp: int, recorded: int, values: Sequence[float], fault: str = "") -> None:
        """`fault`: why the sample is broken; its values are NaN then."""
        if fault:
            self.faults[len(self.stamps_ns)] = fault
        self.stamps_ns.append(stamp)
        self.recorded_ns.append(recorded)
        self.values.extend(values)

    def without_unset(self) -> tuple["Samples", int]:
        """The samples that `unset` does not name, and how many those are."""
        dropped = unset(np.array(self.stamps_ns, np.int64))
        if not dropped.any():
            return self, 0
        kept, width = Samples(), len(self.values) // len(dropped)
        for number in np.flatnonzero(~dropped).tolist():
            values = self.values[number * width : (number + 1) * width]
            kept.add(self.stamps_ns[number], self.recorded_ns[number], values, self.faults.get(number, ""))
        return kept, int(np.count_nonzero(dropped))

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps and times of recording, (n,) int64 ns each."""
        return np.array(self.stamps_ns, np.int64), np.array(self.recorded_ns, np.int64)
