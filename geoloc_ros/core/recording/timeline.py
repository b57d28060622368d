# SPDX-License-Identifier: Apache-2.0
"""Short histories of sensor samples, so that a frame gets the attitude and height of its own moment."""

import bisect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

Sample = TypeVar("Sample")


class Timeline(Generic[Sample]):
    """The last `span_s` seconds of samples by stamp, written by one thread and read by another.

    `blend(a, b, share)` gives the sample at `share` (0..1) of the way from a to b.
    """

    def __init__(self, blend: Callable[[Sample, Sample, float], Sample], span_s: float = 5.0) -> None:
        self._blend = blend
        self._span_s = span_s
        self._stamps: list[float] = []
        self._samples: list[Sample] = []
        self._arrived = threading.Condition()

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_s: float, sample: Sample) -> None:
        """Put a sample in its place; one with the stamp of another replaces it.

        One older than the whole span means that the clock went back: the history starts anew with it.
        """
        with self._arrived:
            if self._stamps and stamp_s < self._stamps[-1] - self._span_s:
                self._stamps.clear()
                self._samples.clear()
            place = bisect.bisect_left(self._stamps, stamp_s)
            if place < len(self._stamps) and self._stamps[place] == stamp_s:
                self._samples[place] = sample
            else:
                self._stamps.insert(place, stamp_s)
                self._samples.insert(place, sample)
            old = bisect.bisect_left(self._stamps, self._stamps[-1] - self._span_s)
            del self._stamps[:old], self._samples[:old]
            self._arrived.notify_all()

    def clear(self) -> None:
        """Forget everything, as when the clock goes back."""
        with self._arrived:
            self._stamps.clear()
            self._samples.clear()

    def wait_for(self, stamp_s: float, timeout_s: float) -> None:
        """Return when a sample of `stamp_s` or later is there, after `timeout_s` at the latest."""
        end = time.monotonic() + timeout_s
        with self._arrived:
            while not (self._stamps and self._stamps[-1] >= stamp_s):
                left_s = end - time.monotonic()
                if left_s <= 0 or not self._arrived.wait(left_s):
                    return

    def at(self, stamp_s: float, max_age_s: float) -> Sample | None:
        """The sample at `stamp_s`, blended from its two neighbours where both are within `max_age_s`.

        Else the nearer one if it is within `max_age_s`, else None.
        """
        with self._arrived:
            after = bisect.bisect_left(self._stamps, stamp_s)
            near = [i for i in (after - 1, after) if 0 <= i < len(self._stamps)]
            near = [i for i in near if abs(self._stamps[i] - stamp_s) <= max_age_s]
            if not near:
                return None
            if len(near) == 2:
                start_s, end_s = self._stamps[near[0]], self._stamps[near[1]]
                share = (stamp_s - start_s) / (end_s - start_s)
                return self._blend(self._samples[near[0]], self._samples[near[1]], share)
            return self._samples[near[0]]

    def newest_s(self) -> float | None:
        """Stamp of the newest sample, s; None when there is none."""
        with self._arrived:
            return self._stamps[-1] if self._stamps else None


def blend_numbers(a: float, b: float, share: float) -> float:
    """Linear interpolation."""
    return a + (b - a) * share


def blend_quaternions(a: Sequence[float], b: Sequence[float], share: float) -> tuple[float, float, float, float]:
    """Spherical interpolation along the shorter arc (Shoemake 1985); both (qx, qy, qz, qw), of any length.

    share 0 and 1 give back `a` and `b` unchanged, so that a sample taken with the frame stays exact.
    """
    if share == 0.0 or share == 1.0:
        x, y, z, w = b if share else a
        return x, y, z, w
    p, q = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    p, q = p / np.linalg.norm(p), q / np.linalg.norm(q)
    cosine = float(p @ q)
    if cosine < 0:
        q, cosine = -q, -cosine
    angle = float(np.arccos(min(1.0, cosine)))
    # Below a microradian the arc is a straight line to the last digit, and its sine must not divide.
    weights = (
        (1 - share, share)
        if angle < 1e-6
        else (np.sin((1 - share) * angle) / np.sin(angle), np.sin(share * angle) / np.sin(angle))
    )
    x, y, z, w = weights[0] * p + weights[1] * q
    return float(x), float(y), float(z), float(w)
