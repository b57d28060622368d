# SPDX-License-Identifier: Apache-2.0
"""A recording as of a camera that takes fewer images."""

import math
from collections.abc import Iterator
from pathlib import Path

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.frame import Frame, Recording, Truth

JITTER = 0.05
"""Share of the interval by which a stamp may come early: cameras are not exact."""


class Thinned(Recording):
    """Some frames of a recording, with their stamps."""

    def __init__(self, recording: Recording, every: int = 1, rate_hz: float = math.inf) -> None:
        """Each `every`th frame, and of those only what comes at rate_hz or less.

        GeolocError for what leaves no frames.
        """
        if every < 1 or not rate_hz > 0:
            raise GeolocError(f"every {every} frames at {rate_hz:g} Hz: give 1 or more, and a positive rate")
        self._recording = recording
        self.camera = recording.camera
        self._chosen: list[int] = []
        due_s = -math.inf
        for index in range(0, len(recording), every):
            stamp_s = recording.stamp_s(index)
            if stamp_s >= due_s:
                self._chosen.append(index)
                due_s = stamp_s + (1.0 - JITTER) / rate_hz

    @property
    def map_path(self) -> Path:
        """The recording's own."""
        return self._recording.map_path

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(0, len(self))

    def frames(self, first: int, stop: int) -> Iterator[Frame]:
        """Frames `first` to `stop` - 1 of those that are left."""
        chosen = self._chosen[first:stop]
        if not chosen:
            return
        wanted = set(chosen)
        for index, frame in enumerate(self._recording.frames(chosen[0], chosen[-1] + 1), chosen[0]):
            if index in wanted:
                yield frame

    def stamp_s(self, index: int) -> float:
        """The recording's."""
        return self._recording.stamp_s(self._chosen[index])

    def truth(self, index: int) -> Truth | None:
        """The recording's."""
        return self._recording.truth(self._chosen[index])
