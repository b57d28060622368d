# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/CameraInfo to the camera model, for the live graph and for bags: only the message's fields count."""

from __future__ import annotations

from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel

DISTORTION_MODELS = {
    "": "plumb_bob",  # drivers that do not calibrate leave it empty
    "plumb_bob": "plumb_bob",
    "rational_polynomial": "rational_polynomial",
    "equidistant": "equidistant",
    "fisheye": "equidistant",
}


def camera_from_info(message: Any) -> CameraModel:
    """The camera as the pictures have it: K and D, moved to the region of interest and binned where set."""
    model = DISTORTION_MODELS.get(message.distortion_model)
    if model is None:
        raise GeolocError(
            f"camera_info has distortion model '{message.distortion_model}'; "
            f"supported are {', '.join(name for name in DISTORTION_MODELS if name)}"
        )
    matrix = np.array(message.k, dtype=np.float64).reshape(3, 3)
    roi = message.roi
    width, height = roi.width or message.width, roi.height or message.height
    matrix[:2, 2] -= roi.x_offset, roi.y_offset
    for row, binning in ((0, message.binning_x), (1, message.binning_y)):
        if binning > 1:
            # Whole numbers are pixel centres, so the corner at -0.5 stays where it is.
            matrix[row] /= binning
            matrix[row, 2] += 0.5 / binning - 0.5
    width, height = width // max(1, message.binning_x), height // max(1, message.binning_y)
    return CameraModel(width, height, matrix, tuple(message.d), model)
