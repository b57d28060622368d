# SPDX-License-Identifier: Apache-2.0
"""Motion between two moments, whichever source has measured it."""

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Displacement:
    """How far the vehicle moved over ground from start_s to stop_s.

    enu_m: (2,) east and north, m. covariance_enu_m2: (2, 2) of it, m^2; errors of successive displacements are
    independent. drift_m2: variance per axis that errors add which successive displacements share, m^2: the position
    becomes that much less certain, the speed does not. source: as in diagnostics.
    """

    start_s: float
    stop_s: float
    enu_m: np.ndarray
    covariance_enu_m2: np.ndarray
    drift_m2: float = 0.0
    source: str = "odom"

    def after(self, stamp_s: float) -> "Displacement | None":
        """The part of it after a moment, at constant speed; None if nothing is left."""
        if stamp_s <= self.start_s:
            return self
        if stamp_s >= self.stop_s:
            return None
        share = (self.stop_s - stamp_s) / (self.stop_s - self.start_s)
        return replace(
            self,
            start_s=stamp_s,
            enu_m=self.enu_m * share,
            covariance_enu_m2=self.covariance_enu_m2 * share,
            drift_m2=self.drift_m2 * share,
        )

    def turned(self, heading_deg: float) -> "Displacement":
        """Turned clockwise, seen from above."""
        turn = clockwise(heading_deg)
        return replace(self, enu_m=turn @ self.enu_m, covariance_enu_m2=turn @ self.covariance_enu_m2 @ turn.T)


def clockwise(heading_deg: float) -> np.ndarray:
    """(2, 2) that turns east and north clockwise, seen from above."""
    c, s = math.cos(math.radians(heading_deg)), math.sin(math.radians(heading_deg))
    return np.array([[c, s], [-s, c]])
