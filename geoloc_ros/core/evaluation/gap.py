# SPDX-License-Identifier: Apache-2.0
"""A flight that cannot be matched for a while: what the camera shows then, and how far the track has drifted."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.answers import Answer
from geoloc_ros.core.evaluation.kidnap import Step
from geoloc_ros.core.evaluation.scores import rounded
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop, MapSource
from geoloc_ros.core.recording.frame import Frame, Recording, Truth

SHOWN = ("blank", "noise", "elsewhere", "ground")
"""Black, random pixels, images of another part of the flight, or the ground itself while the map is missing."""


class GapMap(MapSource):
    """A map that covers nothing while `closed`."""

    def __init__(self, source: MapSource) -> None:
        self._source = source
        self.closed = False

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        """The map's crop, or an empty one."""
        if not self.closed:
            return self._source.crop(lat_deg, lon_deg, size_m, size_px)
        blank = np.zeros((size_px, size_px, 3), np.uint8)
        return MapCrop(blank, lat_deg, lon_deg, size_m, size_m / size_px, 0.0, CropStatus.OUT_OF_BOUNDS, "in the gap")


@dataclass(frozen=True)
class Gap:
    """Frames `first` to `last` of a flight show one of SHOWN."""

    first: int
    last: int
    shown: str

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.last and self.shown in SHOWN):
            raise GeolocError(f"a gap of frames {self.first} to {self.last} is impossible: give FIRST-LAST from 1 on")

    def steps(self, flight: Recording, source: GapMap, seed: int) -> Iterator[Step]:
        """The flight with the gap; GeolocError if it does not end before the flight, or truth is missing."""
        if self.last >= len(flight) - 1:
            raise GeolocError(f"the gap ends with frame {self.last}, the flight with {len(flight) - 1}: end it before")
        rng = np.random.default_rng(seed)
        for index, frame in enumerate(flight):
            inside = self.first <= index <= self.last
            source.closed = inside and self.shown == "ground"
            if frame.truth is None:
                raise GeolocError(f"the frame at {frame.stamp_s} s has no truth: --gap needs it everywhere")
            yield Step(self._shown(index, frame, flight, rng) if inside else frame, frame.truth)

    def _shown(self, index: int, frame: Frame, flight: Recording, rng: np.random.Generator) -> Frame:
        if frame.image is None or self.shown == "ground":
            return frame
        if self.shown == "elsewhere":
            other = (index + len(flight) // 2) % len(flight)
            return replace(frame, image=next(iter(flight.frames(other, other + 1))).image)
        shape = frame.image.shape
        image = np.zeros(shape, np.uint8) if self.shown == "blank" else rng.integers(0, 256, shape, np.uint8)
        return replace(frame, image=image)

    def outcome(self, answers: list[Answer]) -> dict[str, Any]:
        """Distance flown in the gap, error of the track at its end, and time until the first fix after it; None: none.

        answers: to all frames, in order.
        """
        if len(answers) <= self.last:
            return {}
        inside = answers[self.first - 1 : self.last + 1]
        flown_m = sum(_between_m(a.truth, b.truth) for a, b in itertools.pairwise(inside))
        end = inside[-1]
        track = end.estimate.filtered
        error_m = math.nan if track is None else _between_m(end.truth, Truth(track.lat_deg, track.lon_deg, 0.0))
        after = answers[self.last + 1 :]
        found = next((index for index, answer in enumerate(after) if answer.score.valid), None)
        found_s = math.nan if found is None else after[found].score.stamp_s - after[0].score.stamp_s
        return {
            "what": f"frames {self.first} to {self.last} show {self.shown}",
            "flown_m": rounded(flown_m, 1),
            "error_m": rounded(error_m, 1),
            "error_percent": rounded(100 * error_m / max(flown_m, 1e-9), 2),
            "state_at_end": end.score.state,
            "false_fixes": sum(a.score.valid and not a.score.error_m <= 20.0 for a in inside[1:] + after),
            "found_after_s": rounded(found_s, 3),
            "found_after_frames": None if found is None else found + 1,
        }


def _between_m(a: Truth, b: Truth) -> float:
    return math.hypot(*LocalEnu(a.lat_deg, a.lon_deg).to_enu(b.lat_deg, b.lon_deg))
