# SPDX-License-Identifier: Apache-2.0
"""A recording as of a vehicle whose compass and altimeter are constantly wrong."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.frame import Frame, Recording, Truth, with_heading


class Misreported(Recording):
    """A recording with an error of heading, degrees clockwise, and one of height, percent, put into every frame."""

    def __init__(self, recording: Recording, heading_deg: float, height_percent: float) -> None:
        """GeolocError for errors that leave no heading or height."""
        if not (abs(heading_deg) <= 180.0 and -90.0 <= height_percent <= 900.0):
            raise GeolocError(
                f"errors of {heading_deg} ° of heading and {height_percent} % of height are out of range: "
                "give -180 to 180 degrees and -90 to 900 %"
            )
        self._recording, self._heading_deg, self._share = recording, heading_deg, 1.0 + height_percent / 100.0
        self.camera = recording.camera

    @property
    def map_path(self) -> Path:
        """The recording's own."""
        return self._recording.map_path

    def __len__(self) -> int:
        return len(self._recording)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._frame, self._recording)

    def frames(self, first: int, stop: int) -> Iterator[Frame]:
        """Frames `first` to `stop` - 1, misreported."""
        return map(self._frame, self._recording.frames(first, stop))

    def stamp_s(self, index: int) -> float:
        """The recording's."""
        return self._recording.stamp_s(index)

    def truth(self, index: int) -> Truth | None:
        """The recording's, and what the report now lacks."""
        return self._truth(self._recording.truth(index))

    def _frame(self, frame: Frame) -> Frame:
        truth = self._truth(frame.truth)
        frame = with_heading(frame, self._heading_deg)
        return replace(frame, height_m=frame.height_m * self._share, truth=truth)

    def _truth(self, truth: Truth | None) -> Truth | None:
        if truth is None:
            return None
        return replace(
            truth,
            heading_offset_deg=math.remainder(truth.heading_offset_deg - self._heading_deg, 360.0),
            height_scale=truth.height_scale / self._share,
        )
