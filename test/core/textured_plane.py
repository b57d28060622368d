# SPDX-License-Identifier: Apache-2.0
"""A textured plane, and views of it that OpenCV's homographies render at known poses."""

from functools import cache

import cv2
import numpy as np

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.frame import Frame

CAMERA = CameraModel(320, 240, np.array([[260.0, 0, 159.5], [0, 260.0, 119.5], [0, 0, 1]]))
GROUND_PX, GROUND_GSD_M, HEIGHT_M = 900, 0.5, 100.0


@cache
def ground(seed: int = 0) -> np.ndarray:
    """Blobs of several sizes, (n, n, 3)."""
    rng = np.random.default_rng(seed)
    total = sum(
        cv2.resize(rng.normal(size=(n, n)).astype(np.float32), (GROUND_PX, GROUND_PX), interpolation=cv2.INTER_CUBIC)
        * w
        for n, w in ((225, 20.0), (75, 25.0), (20, 20.0))
    )
    return np.repeat(np.clip(128 + total, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def seen(
    east_m: float,
    north_m: float,
    stamp_s: float,
    rotation: np.ndarray | None = None,
    height_m: float = HEIGHT_M,
    image: np.ndarray | None = None,
) -> Frame:
    """A frame from (east, north) of the ground's centre: pixel ~ K R^T (ground point - camera)."""
    rotation = nadir_rotation() if rotation is None else rotation
    c = (GROUND_PX - 1) / 2
    to_enu = np.array([[GROUND_GSD_M, 0, -c * GROUND_GSD_M], [0, -GROUND_GSD_M, c * GROUND_GSD_M], [0, 0, 1]])
    from_camera = np.array([[1, 0, -east_m], [0, 1, -north_m], [0, 0, -height_m]])
    homography = CAMERA.matrix @ rotation.T @ from_camera @ to_enu
    texture = ground() if image is None else image
    shot = cv2.warpPerspective(texture, homography, (CAMERA.width, CAMERA.height), flags=cv2.INTER_AREA)
    return Frame(shot, stamp_s, rotation, height_m, CAMERA)
