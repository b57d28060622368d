# SPDX-License-Identifier: Apache-2.0
"""Views of a plane, simulated: homographies between a camera and the ground below it, and warps by them."""

import cv2
import numpy as np

CAMERA_FOV_RAD = np.deg2rad(60.0)
"""Field of view of simulated views across their side; only tilt depends on it."""


def ground_from_view(
    side_px: float, out_px: int, roll_rad: float = 0.0, pitch_rad: float = 0.0, yaw_rad: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """Homography (3, 3) from pixel-edge coordinates of a simulated square view to ground pixels about its centre.

    The camera looks down on a plane from the height at which its image nominally spans `side_px`; `scale` multiplies
    that height, roll and pitch tilt it, yaw turns it. The principal ray always hits the ground at (0, 0).
    """
    focal = out_px / 2 / np.tan(CAMERA_FOV_RAD / 2)
    height = scale * side_px / 2 / np.tan(CAMERA_FOV_RAD / 2)
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll_rad, pitch_rad, yaw_rad) for f in (np.cos, np.sin))
    rotation = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    rays = rotation @ np.array([[1 / focal, 0, -out_px / 2 / focal], [0, 1 / focal, -out_px / 2 / focal], [0, 0, 1]])
    axis = rotation @ np.array([0.0, 0.0, 1.0])
    # Ground = height * ray_xy / ray_z - height * axis_xy / axis_z, written as one homography.
    offset = height * axis[:2] / axis[2]
    return np.vstack([height * rays[:2] - np.outer(offset, rays[2]), rays[2:]])


_EDGE_TO_CENTRE = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])

_CENTRE_TO_EDGE = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])


def warp(image: np.ndarray, source_from_output: np.ndarray, out_px: int) -> np.ndarray:
    """Resample to (out_px, out_px) by a (3, 3) homography between pixel-edge coordinates; antialiased.

    Outside the image the view has the mean colour of its valid part, as in RSC (DRL paper, section III-D).
    """
    centre = source_from_output @ np.array([out_px / 2, out_px / 2, 1.0])
    shrink = np.sqrt(abs(np.linalg.det(source_from_output) / centre[2] ** 3))
    level, to_level = image, np.eye(3)
    if shrink > 1.5:
        # Average over the pixels that fall into one output pixel before sampling.
        height, width = image.shape[:2]
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        level = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        to_level = np.diag([size[0] / width, size[1] / height, 1.0])
    matrix = _EDGE_TO_CENTRE @ to_level @ source_from_output @ _CENTRE_TO_EDGE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = cv2.warpPerspective(level, matrix, (out_px, out_px), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    inside = cv2.warpPerspective(
        np.full(level.shape[:2], 255, np.uint8), matrix, (out_px, out_px), flags=flags, borderMode=cv2.BORDER_CONSTANT
    )
    missing = inside < 255
    if missing.any() and not missing.all():
        out[missing] = np.round(out[~missing].mean(0)).astype(np.uint8)
    return out


def render_view(
    image: np.ndarray,
    centre_xy_px: tuple[float, float],
    side_px: float,
    out_px: int,
    roll_rad: float = 0.0,
    pitch_rad: float = 0.0,
    yaw_rad: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """What a down-looking camera sees whose principal ray hits `image` at centre_xy_px (pixel-edge coordinates)."""
    homography = ground_from_view(side_px, out_px, roll_rad, pitch_rad, yaw_rad, scale)
    shift = np.array([[1, 0, centre_xy_px[0]], [0, 1, centre_xy_px[1]], [0, 0, 1.0]])
    return warp(image, shift @ homography, out_px)
