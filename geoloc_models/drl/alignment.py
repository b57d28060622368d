# SPDX-License-Identifier: Apache-2.0
"""Fine alignment: how a view lies on the map once its place is known, from correlations of its parts."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alignment:
    """How a view has to be moved, turned, scaled and tilted to lie on the map.

    With q a view's pixel relative to its centre and heading and scale as below, the map shows q at
    centre_xy_px + R q' + (tilt . q) q', where q' = exp(log_scale) q and R turns clockwise in the image by heading_rad.

    centre_xy_px: of the view on the map, pixel edges. heading_rad: to be added to the vehicle's heading, clockwise seen
    from above. log_scale: the true height is exp(log_scale) times the assumed one. tilt_per_px: error of the view
    vector, as the perspective that it causes, (x, y), 1/px: times the height in pixels it is the angle, rad, by which
    the ground in the view must be moved away from the camera's nadir. covariance: (6, 6) of (x, y, heading_rad,
    log_scale, tilt x, tilt y) in these units. support: share of the view's blocks that agree, 0..1. evidence: natural
    logarithm of how much likelier the blocks' correlations are at this placement than by chance.
    """

    centre_xy_px: tuple[float, float]
    heading_rad: float
    log_scale: float
    tilt_per_px: tuple[float, float]
    covariance: np.ndarray
    support: float
    evidence: float
