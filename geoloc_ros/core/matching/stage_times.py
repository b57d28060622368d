# SPDX-License-Identifier: Apache-2.0
"""Where the time of a frame goes."""

import time

STAGES = ("decode", "odometry", "rectify", "retrieve", "crop", "network", "post")
"""The stages of a frame in their order: `decode` in the live graph only, `odometry` while there is a track,
`retrieve` in searches of the whole map.
"""


class StageTimes:
    """A stopwatch; ms: milliseconds by stage, of the stages that have ended."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage; the next one begins."""
        now = time.perf_counter()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now

    def total_ms(self) -> float:
        """Since the start."""
        return (time.perf_counter() - self._start) * 1e3
