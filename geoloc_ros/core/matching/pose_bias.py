# SPDX-License-Identifier: Apache-2.0
"""What is constantly wrong with the vehicle's pose: heading, height and the camera's mount, learned from alignments."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PoseBias:
    """Slowly varying errors of what the vehicle reports about itself.

    heading_rad: to be added to the reported heading, clockwise seen from above. log_height_scale: the true height is
    exp(log_height_scale) times the reported one. boresight_rad: (x, y) of the small rotation in the optical frame that
    the mount lacks: R_enu_from_optical(true) = R(reported) exp([x, y, 0]). covariance: (4, 4) in this order.
    """

    heading_rad: float
    log_height_scale: float
    boresight_rad: tuple[float, float]
    covariance: np.ndarray
